import pytest

from workers.engine.sequence import FINISH_REASONS, MediaInput, Sequence, Status


def test_everything_after_preempted_is_finished() -> None:
    seq = Sequence("a", [1, 2], 2, 8)
    unfinished = []
    for status in Status:
        seq.status = status
        if not seq.is_finished:
            unfinished.append(status)
    assert unfinished == [Status.WAITING, Status.RUNNING, Status.PREEMPTED]


def test_finish_reasons_are_the_apis_and_only_for_finished_statuses() -> None:
    assert set(FINISH_REASONS.values()) == {"stop", "length"}
    assert all(status > Status.PREEMPTED for status in FINISH_REASONS)
    seq = Sequence("a", [1, 2], 2, 8)
    assert seq.finish_reason is None
    seq.status = Status.FINISHED_LENGTH
    assert seq.finish_reason == "length"
    seq.status = Status.FINISHED_ABORTED
    assert seq.finish_reason is None


def test_tokens_emitted_before_a_resume_count_as_outputs() -> None:
    seq = Sequence("a", [1, 2, 3, 10, 11], 3, 6)
    assert (seq.num_tokens, seq.num_output_tokens, seq.output_ids, seq.num_uncomputed) == (5, 2, [10, 11], 5)
    assert not seq.is_at_limit
    seq.token_ids.append(12)
    assert seq.is_at_limit and seq.num_output_tokens == 3


@pytest.mark.parametrize("num_prompt_tokens", [0, -1, 4])
def test_prompt_must_be_there(num_prompt_tokens: int) -> None:
    with pytest.raises(ValueError, match="num_prompt_tokens"):
        Sequence("a", [1, 2, 3], num_prompt_tokens, 8)


@pytest.mark.parametrize(
    "spans",
    [[(0, 0)], [(2, 3), (4, 2)], [(4, 2), (0, 2)], [(6, 3)], [(-1, 2)]],
    ids=["empty", "overlapping", "descending", "in the outputs", "before the start"],
)
def test_bad_media_spans_are_refused(spans: list[tuple[int, int]]) -> None:
    media = tuple(MediaInput(start, length, b"k") for start, length in spans)
    with pytest.raises(ValueError, match="media span"):
        Sequence("a", list(range(10)), 8, 20, media)


def test_media_between_takes_every_span_that_has_a_token_inside() -> None:
    first, second = MediaInput(2, 3, b"a"), MediaInput(5, 2, b"b")
    seq = Sequence("a", list(range(9)), 9, 20, (first, second))
    assert seq.media_between(0, 2) == []
    assert seq.media_between(0, 3) == [first]
    assert seq.media_between(4, 6) == [first, second]
    assert seq.media_between(6, 9) == [second]
    assert seq.media_between(7, 9) == []


@pytest.mark.parametrize(("offset", "num_encoded"), [(-1, 8), (6, 8), (1, None)])
def test_a_span_outside_its_encoding_is_refused(offset: int, num_encoded: int | None) -> None:
    with pytest.raises(ValueError, match="outside its encoding"):
        Sequence("a", list(range(10)), 8, 20, (MediaInput(0, 3, b"k", offset=offset, num_encoded=num_encoded),))


def test_media_are_passed_at_their_end_those_of_one_encoding_at_its_last() -> None:
    frames = [MediaInput(start, 2, b"film", offset=start // 3 * 2, num_encoded=6) for start in (0, 3, 6)]
    picture, again = MediaInput(9, 2, b"cat"), MediaInput(12, 2, b"film")
    seq = Sequence("a", list(range(16)), 16, 20, (*frames, picture, again))
    assert seq.media_passed(0, 2) == seq.media_passed(0, 7) == []
    assert seq.media_passed(7, 8) == [frames[2]]
    assert seq.media_passed(0, 11) == [picture]
    assert seq.media_passed(11, 13) == []
    assert seq.media_passed(11, 14) == [again]


def test_sequences_are_compared_by_identity() -> None:
    assert Sequence("a", [1], 1, 2) != Sequence("a", [1], 1, 2)
