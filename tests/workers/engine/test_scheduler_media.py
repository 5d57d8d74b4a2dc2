"""The scheduler with media and the prefix cache: what the tower runs, what is found again."""

from tests.fakes.digest_runner import undisturbed_outputs
from tests.fakes.prompts import chunks_of, clip, picture, prompt
from tests.fakes.scheduling_rig import Rig
from workers.engine.sequence import Sequence, Status


def test_second_turn_computes_only_what_is_new() -> None:
    rig = Rig()
    first = rig.add(prompt("a", 16, max_new_tokens=6, seed=1))
    rig.run()
    second = Sequence("b", [*first.token_ids, 500, 501], first.num_tokens + 2, 40)
    rig.add(second)
    plan = rig.step()
    assert second.num_cached_tokens == plan.chunks[0].start >= 16
    rig.run()


def test_cached_outputs_of_a_resumed_request_are_not_cached_prompt() -> None:
    rig = Rig()
    first = rig.add(prompt("a", 6, max_new_tokens=12))
    rig.run()
    second = rig.add(prompt("b", 6, max_new_tokens=20, seed=1))
    second.token_ids[:] = first.token_ids
    rig.step()
    assert second.num_cached_tokens == 6
    rig.run()


def test_spans_covered_by_the_prefix_cache_never_run_the_tower() -> None:
    rig = Rig(encoder_tokens=0)  # nothing is kept: only the prefix cache can save the tower's work
    media = (picture(2, 6, b"cat"),)
    rig.add(prompt("a", 12, media=media, seed=1))
    rig.run()
    assert rig.runner.encoded == [b"cat-key"] and rig.runner.embeddings.keys() <= {b"cat-key"}
    rig.add(prompt("b", 12, media=media, seed=1))
    rig.run()
    assert rig.runner.encoded == [b"cat-key"]


def test_hit_that_ends_inside_a_picture_encodes_it_once_more() -> None:
    rig = Rig(encoder_tokens=0)
    media = (picture(2, 8, b"cat"),)
    rig.add(prompt("a", 10, media=media, seed=1))
    rig.run()
    seq = rig.add(prompt("b", 10, media=media, seed=1))
    expected = undisturbed_outputs(seq)
    assert chunks_of(rig.step()) == [("b", 8, 2, True)]
    rig.run()
    assert rig.runner.encoded == [b"cat-key"] * 2 and seq.output_ids == expected


def test_equal_prompts_with_different_pictures_share_nothing_behind_them() -> None:
    rig = Rig()
    seqs = [rig.add(prompt(name, 20, media=(picture(5, 8, name.encode()),), seed=1)) for name in ("cat", "dog")]
    rig.run()
    third = rig.add(prompt("bird", 20, media=(picture(5, 8, b"bird"),), seed=1))
    rig.step()
    assert third.num_cached_tokens == 4
    assert seqs[0].output_ids != seqs[1].output_ids
    rig.run()


def test_pictures_of_several_requests_are_encoded_in_one_step_and_once() -> None:
    rig = Rig()
    rig.add(prompt("a", 12, media=(picture(2, 4, b"cat"), picture(7, 4, b"cat"))))
    rig.add(prompt("b", 12, media=(picture(1, 4, b"dog"),)))
    rig.add(prompt("c", 12, media=(picture(3, 4, b"cat"),)))
    assert [item.tiles for item in rig.step().encode] == [b"cat", b"dog"]
    rig.run()
    assert rig.runner.encoded == [b"cat-key", b"dog-key"]


def test_chunk_stops_before_a_picture_that_the_budget_does_not_allow() -> None:
    rig = Rig(max_encode_tokens=10)
    rig.add(prompt("a", 30, media=(picture(2, 8, b"cat"), picture(15, 8, b"dog"))))
    plan = rig.step()
    assert chunks_of(plan) == [("a", 0, 15, False)] and [item.tiles for item in plan.encode] == [b"cat"]
    assert chunks_of(rig.step()) == [("a", 15, 15, True)]


def test_picture_beyond_the_encode_budget_runs_alone() -> None:
    rig = Rig(max_encode_tokens=4, encoder_tokens=4)
    rig.add(prompt("a", 30, media=(picture(2, 20, b"wide"),)))
    assert [item.tiles for item in rig.step().encode] == [b"wide"]
    rig.run()


def test_small_pictures_behind_a_large_one_wait_their_turn() -> None:
    rig = Rig(max_encode_tokens=10, max_num_seqs=8)
    rig.add(prompt("a", 12, media=(picture(1, 4, b"cat"),)))
    rig.add(prompt("b", 12, media=(picture(1, 10, b"wide"),)))
    rig.add(prompt("c", 12, media=(picture(1, 4, b"dog"),)))
    assert [item.tiles for item in rig.step().encode] == [b"cat"]
    assert [item.tiles for item in rig.step().encode] == [b"wide"]
    assert [item.tiles for item in rig.step().encode] == [b"dog"]


def test_embedding_outlives_the_steps_that_cut_its_span() -> None:
    rig = Rig(prefill_chunk=5, encoder_tokens=8)
    rig.add(prompt("a", 20, media=(picture(3, 15, b"wide"),)))
    rig.add(prompt("b", 20, media=(picture(3, 5, b"cat"),)))
    rig.run()
    assert rig.runner.encoded == [b"wide-key", b"cat-key"]
    assert rig.encoder_cache.size_bytes == 5


def test_cache_of_one_picture_serves_a_prompt_that_alternates_two() -> None:
    rig = Rig(encoder_tokens=6, prefill_chunk=7)
    names = [b"cat", b"dog", b"cat", b"dog"]
    media = tuple(picture(1 + 7 * number, 6, name) for number, name in enumerate(names))
    seq = rig.add(prompt("a", 32, media=media))
    expected = undisturbed_outputs(seq)
    rig.run()
    assert seq.output_ids == expected
    assert rig.runner.encoded == [name + b"-key" for name in names]


def test_a_clip_is_encoded_whole_and_once_however_its_frames_are_cut() -> None:
    rig = Rig(prefill_chunk=3, encoder_tokens=16)
    seq = rig.add(prompt("a", 30, media=clip(2, 4, 4, b"film")))
    expected = undisturbed_outputs(seq)
    rig.add(prompt("b", 20, media=(picture(3, 5, b"cat"),)))
    rig.run()
    assert seq.output_ids == expected
    assert rig.runner.encoded == [b"film-key", b"cat-key"]  # which does not fit beside it, and waits


def test_a_clip_counts_with_all_its_frames() -> None:
    rig = Rig(max_encode_tokens=15)
    rig.add(prompt("a", 40, media=(picture(1, 4, b"cat"), *clip(6, 3, 4, b"film"))))
    plan = rig.step()
    assert [item.tiles for item in plan.encode] == [b"cat"] and chunks_of(plan) == [("a", 0, 6, False)]
    assert [item.tiles for item in rig.step().encode] == [b"film"]
    rig.run()
    assert rig.runner.encoded == [b"cat-key", b"film-key"]


def test_a_clip_is_let_go_behind_its_last_frame() -> None:
    rig = Rig(prefill_chunk=5, encoder_tokens=0)
    rig.add(prompt("a", 40, media=clip(0, 3, 4, b"film")))
    for _ in range(2):
        rig.step()
        assert b"film-key" in rig.encoder_cache
    rig.step()  # tokens 10 to 15: the last frame ends at 14
    assert b"film-key" not in rig.encoder_cache
    rig.run()


def test_frames_of_a_preempted_clip_give_the_same() -> None:
    rig = Rig(num_blocks=14, encoder_tokens=16, prefill_chunk=6)
    seqs = [rig.add(prompt(name, 22, 16, media=clip(1, 4, 4, name.encode()))) for name in ("cat", "dog")]
    expected = [undisturbed_outputs(seq) for seq in seqs]
    rig.run()
    assert rig.num_preemptions > 0
    assert [seq.output_ids for seq in seqs] == expected


def test_decoding_goes_on_while_pictures_are_encoded_beside_it() -> None:
    rig = Rig(encode_steps=3)
    text = rig.add(prompt("text", 6, max_new_tokens=30))
    rig.step()
    seq = rig.add(prompt("pictures", 30, media=(picture(2, 8, b"cat"), picture(12, 8, b"dog")), seed=1))
    expected = [undisturbed_outputs(seq) for seq in (text, seq)]
    plan = rig.step()
    assert [item.key for item in plan.encode_beside] == [b"cat-key", b"dog-key"] and plan.encode == ()
    assert chunks_of(plan) == [("text", 6, 1, True), ("pictures", 0, 2, False)]
    for _ in range(3):
        assert chunks_of(rig.step()) == [("text", text.num_tokens - 2, 1, True)]
    assert chunks_of(rig.step())[1] == ("pictures", 2, 28, True)
    rig.run()
    assert [text.output_ids, seq.output_ids] == expected


def test_the_tower_is_at_the_next_pictures_while_chunks_go_over_the_last_ones() -> None:
    rig = Rig(encode_steps=2, max_encode_tokens=16, prefill_chunk=10)
    rig.add(prompt("text", 6, max_new_tokens=40))
    rig.step()
    media = tuple(picture(2 + 10 * number, 8, str(number).encode()) for number in range(6))
    seq = rig.add(prompt("pictures", 64, media=media, seed=1))
    expected = undisturbed_outputs(seq)
    plans = [rig.step() for _ in range(12)]
    batches = [[item.key.decode()[0] for item in plan.encode_beside] for plan in plans]
    assert [batch for batch in batches if batch] == [["0", "1"], ["2", "3"], ["4", "5"]]
    begins = batches.index(["2", "3"])
    assert chunks_of(plans[begins])[1] == ("pictures", 2, 10, False)
    rig.run()
    assert seq.output_ids == expected and len(rig.runner.encoded) == 6


def test_pictures_that_were_encoded_ahead_of_a_request_that_left_hold_nothing() -> None:
    rig = Rig(encode_steps=1, encoder_tokens=32, max_encode_tokens=32, prefill_chunk=4)
    rig.add(prompt("text", 6, max_new_tokens=40))
    rig.step()
    rig.add(prompt("gone", 60, media=tuple(picture(2 + 9 * n, 8, b"gone%d" % n) for n in range(6)), seed=1))
    for _ in range(3):
        rig.step()
    rig.abort("gone")
    seq = rig.add(prompt("next", 60, media=tuple(picture(2 + 9 * n, 8, b"next%d" % n) for n in range(6)), seed=2))
    expected = undisturbed_outputs(seq)
    rig.run()
    assert seq.output_ids == expected


def test_a_lone_request_is_encoded_in_its_step() -> None:
    rig = Rig(encode_steps=3)
    rig.add(prompt("a", 12, media=(picture(2, 6, b"cat"),)))
    plan = rig.step()
    assert [item.key for item in plan.encode] == [b"cat-key"] and chunks_of(plan) == [("a", 0, 12, True)]


def test_what_is_encoded_beside_outlives_the_request_that_left() -> None:
    rig = Rig(encode_steps=2)
    text = rig.add(prompt("text", 6, max_new_tokens=40))
    rig.step()
    rig.add(prompt("gone", 20, media=(picture(2, 8, b"cat"),), seed=1))
    rig.step()
    rig.abort("gone")
    again = rig.add(prompt("again", 20, media=(picture(2, 8, b"cat"),), seed=1))
    expected = undisturbed_outputs(again)
    rig.run()
    assert rig.runner.encoded == [b"cat-key"] and again.output_ids == expected and text.is_finished


def test_what_cannot_be_encoded_beside_ends_those_who_hold_it() -> None:
    rig = Rig(encode_steps=2)
    rig.add(prompt("text", 6, max_new_tokens=20))
    rig.step()
    bad, good = (
        rig.add(prompt(name, 20, media=(picture(2, 8, name.encode()),), seed=seed))
        for seed, name in enumerate(("bad", "good"), start=1)
    )
    expected = undisturbed_outputs(good)
    rig.step()
    assert rig.scheduler.fail_beside(b"bad-key") == [bad]
    del rig.live["bad"]
    rig.encoding = ()
    rig.check()
    rig.run()
    assert bad.status is Status.FINISHED_ERROR and good.output_ids == expected
