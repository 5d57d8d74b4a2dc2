"""The history checker finds each kind of violation, and nothing in a history that is right."""

import json
from typing import Any

import pytest

from benchmarks.chaos.history import Answer, Choice, History, Kind, check

RIGHT = Answer(
    prompt_tokens=5,
    choices=(Choice((11, 12, 13, 14, 15, 16), "a b c d e f "), Choice((21, 22, 23), "u v w ")),
)
PIECES = [dict(zip(one.token_ids, one.text.split(), strict=True)) for one in RIGHT.choices]


def chunk(index: int, token_ids: tuple[int, ...] = (), finish_reason: str | None = None, **other: Any) -> str:
    text = "".join(f"{PIECES[index].get(token_id, '?')} " for token_id in token_ids)
    choice = {"index": index, "delta": {"content": text}, "token_ids": token_ids, "finish_reason": finish_reason}
    return "data: " + json.dumps({"choices": [choice | other]})


def usage(prompt: int = 5, completion: int = 9) -> str:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return "data: " + json.dumps({"choices": [], "usage": counts})


ERROR = "data: " + json.dumps({"error": {"code": "engine_error", "message": "The workers failed."}})
DONE = "data: [DONE]"
FIRST = [chunk(0, (11, 12)), chunk(1, (21,)), chunk(0, (13, 14)), chunk(0, (15, 16)), chunk(0, (), "length")]
SECOND = [chunk(1, (22, 23)), chunk(1, (), "length")]
STREAM = [*FIRST, *SECOND, usage(), DONE]


def history_of(lines: list[str], has_left: bool = False) -> History:
    history = History(has_left=has_left)
    for number, line in enumerate(lines):
        history.take(line, float(number))
    return history


def kinds_in(lines: list[str], has_left: bool = False) -> list[Kind]:
    return [violation.kind for violation in check(history_of(lines, has_left), RIGHT)]


def test_an_undisturbed_stream_is_right_and_is_the_answer_itself() -> None:
    assert kinds_in([": keep-alive", "", *STREAM]) == []
    assert history_of(STREAM).answer() == RIGHT


@pytest.mark.parametrize("number", range(len(STREAM)))
def test_a_client_that_leaves_anywhere_has_seen_nothing_wrong(number: int) -> None:
    assert kinds_in(STREAM[:number], has_left=True) == []


@pytest.mark.parametrize(
    "token_ids",
    [(11, 12, 13, 14, 16), (12, 13, 14, 15, 16), (11, 12, 13, 14, 15), (11, 16), ()],
    ids=["one", "the-first", "the-last", "several", "all"],
)
def test_a_lost_token_is_found(token_ids: tuple[int, ...]) -> None:
    assert kinds_in([chunk(0, token_ids), FIRST[-1], chunk(1, (21,)), *SECOND, usage(), DONE]) == [Kind.LOST]


@pytest.mark.parametrize(
    "token_ids",
    [(11, 12, 12, 13, 14, 15, 16), (11, 12, 13, 11, 12, 13, 14, 15, 16), (11, 12, 13, 14, 15, 16, 16)],
    ids=["one", "several", "the-last"],
)
def test_a_repeated_token_is_found(token_ids: tuple[int, ...]) -> None:
    assert kinds_in([chunk(0, token_ids), FIRST[-1], chunk(1, (21,)), *SECOND, usage(), DONE]) == [Kind.REPEATED]


def test_a_wrong_token_is_found() -> None:
    assert kinds_in([chunk(0, (11, 12, 99))], has_left=True) == [Kind.WRONG]
    assert kinds_in([chunk(0, (11, 12, 13, 14, 15, 16, 99))], has_left=True) == [Kind.WRONG]


def test_lost_tokens_are_found_before_the_client_leaves_and_before_an_error() -> None:
    assert kinds_in([chunk(0, (11, 13, 14))], has_left=True) == [Kind.LOST]
    assert kinds_in([chunk(0, (11, 13, 14)), ERROR]) == [Kind.FAILED, Kind.LOST]


def test_text_that_does_not_belong_to_the_tokens_is_found() -> None:
    withheld = chunk(0, (15, 16), delta={"content": "e "})
    assert kinds_in([withheld if line == FIRST[3] else line for line in STREAM]) == [Kind.LOST]
    twice = chunk(0, (15, 16), delta={"content": "d e f "})
    assert kinds_in([twice if line == FIRST[3] else line for line in STREAM]) == [Kind.REPEATED]


def test_two_last_events_are_found() -> None:
    assert kinds_in([*STREAM, DONE]) == [Kind.ENDED_TWICE]
    assert kinds_in([*STREAM, ERROR]) == [Kind.FAILED, Kind.ENDED_TWICE]


def test_an_event_behind_the_last_one_is_found() -> None:
    assert kinds_in([*STREAM, usage()]) == [Kind.ENDED_TWICE]


def test_a_stream_that_breaks_off_is_found() -> None:
    assert kinds_in(STREAM[:3]) == [Kind.UNENDED]
    assert kinds_in(STREAM[:-1]) == [Kind.UNENDED]


def test_a_failed_request_is_found() -> None:
    assert kinds_in([*FIRST[:2], ERROR]) == [Kind.FAILED]


def test_a_choice_that_ends_twice_or_never_or_was_not_asked_for_is_found() -> None:
    assert kinds_in([*FIRST, FIRST[-1], *SECOND, usage(), DONE]) == [Kind.WRONG]
    assert kinds_in([line for line in STREAM if line != SECOND[-1]]) == [Kind.WRONG]
    stranger = chunk(0, (11,)).replace('"index": 0', '"index": 2')
    assert kinds_in([stranger, *STREAM]) == [Kind.WRONG]


@pytest.mark.parametrize("counts", [(4, 9), (5, 8), (5, 10)])
def test_usage_that_does_not_count_what_was_sent_is_found(counts: tuple[int, int]) -> None:
    assert kinds_in([*STREAM[:-2], usage(*counts), DONE]) == [Kind.WRONG_COUNT]
    assert kinds_in([*STREAM[:-2], DONE]) == [Kind.WRONG_COUNT]


def test_the_longest_gap_is_between_chunks_with_tokens() -> None:
    history = History(stamps=[10.0])
    for line, now_s in ((FIRST[0], 10.5), (": keep-alive", 11.0), (FIRST[2], 12.5), (FIRST[-1], 20.0)):
        history.take(line, now_s)
    assert history.longest_gap_s == 2.0


def test_a_run_that_failed_is_no_answer_to_compare_with() -> None:
    with pytest.raises(ValueError, match="the undisturbed run failed"):
        history_of(STREAM[:3]).answer()
