import random

import pytest

from tests.fakes.digest_runner import undisturbed_outputs
from tests.fakes.prompts import chunks_of, picture, prompt
from tests.fakes.scheduling_rig import Rig
from workers.engine.sequence import Status


def test_prompts_are_packed_together_and_then_decode_together() -> None:
    rig = Rig()
    rig.add(prompt("a", 5))
    rig.add(prompt("b", 9))
    assert chunks_of(rig.step()) == [("a", 0, 5, True), ("b", 0, 9, True)]
    assert chunks_of(rig.step()) == [("a", 5, 1, True), ("b", 9, 1, True)]


def test_long_prompt_is_chunked_beside_decodes_and_samples_only_at_its_end() -> None:
    rig = Rig(prefill_chunk=16, max_num_batched_tokens=20)
    rig.add(prompt("short", 4, max_new_tokens=20))
    rig.step()
    rig.add(prompt("long", 40))
    assert [chunks_of(rig.step()) for _ in range(3)] == [
        [("short", 4, 1, True), ("long", 0, 16, False)],
        [("short", 5, 1, True), ("long", 16, 16, False)],
        [("short", 6, 1, True), ("long", 32, 8, True)],
    ]


def test_token_budget_sets_decodes_aside_first() -> None:
    rig = Rig(max_num_batched_tokens=8, max_num_seqs=4)
    for name in "abc":
        rig.add(prompt(name, 2, max_new_tokens=20))
    rig.step()
    rig.add(prompt("long", 30, priority=-1))  # first in order, still behind the decodes
    plan = rig.step()
    assert chunks_of(plan) == [("a", 2, 1, True), ("b", 2, 1, True), ("c", 2, 1, True), ("long", 0, 5, False)]
    assert plan.num_tokens == 8


def test_while_some_decode_each_waits_for_its_share_of_prefills_alone() -> None:
    rig = Rig(num_blocks=400, max_num_batched_tokens=300, prefill_per_decode=16)
    rig.add(prompt("a", 250, max_new_tokens=20))
    assert chunks_of(rig.step()) == [("a", 0, 250, True)]  # nobody waits
    rig.add(prompt("b", 100, max_new_tokens=20))
    assert chunks_of(rig.step()) == [("a", 250, 1, True), ("b", 0, 64, False)]
    assert chunks_of(rig.step()) == [("a", 251, 1, True), ("b", 64, 36, True)]
    for name in "cdef":
        rig.add(prompt(name, 10, max_new_tokens=20))
    assert rig.step().num_tokens == 2 + 4 * 10
    rig.add(prompt("long", 500))
    plan = rig.step()
    assert (plan.num_tokens, plan.chunks[-1].length) == (6 + 6 * 16, 6 * 16)
    rig.run()
    assert set(rig.finished) == {*"abcdef", "long"}


def test_the_share_is_never_more_than_the_step_has_room_for() -> None:
    rig = Rig(max_num_batched_tokens=20, prefill_per_decode=16)
    rig.add(prompt("a", 4, max_new_tokens=20))
    rig.step()
    rig.add(prompt("long", 100))
    assert chunks_of(rig.step()) == [("a", 4, 1, True), ("long", 0, 19, False)]


def test_shares_change_no_output() -> None:
    outputs = []
    for share in (None, 1):
        rig = Rig(num_blocks=400, prefill_per_decode=share)
        seqs = [rig.add(prompt(str(n), 20 * n + 5, max_new_tokens=8)) for n in range(6)]
        rig.run()
        outputs.append([seq.output_ids for seq in seqs])
    assert outputs[0] == outputs[1]


def test_seats_bound_the_running() -> None:
    rig = Rig(max_num_seqs=2)
    for name in "abcd":
        rig.add(prompt(name, 3))
    rig.step()
    assert (rig.scheduler.num_running, rig.scheduler.num_waiting) == (2, 2)
    rig.run()
    assert set(rig.finished) == set("abcd")


def test_resumed_request_prefills_what_was_emitted_and_goes_on() -> None:
    alone = undisturbed_outputs(prompt("a", 6, max_new_tokens=8))
    rig = Rig()
    seq = rig.add(prompt("a", 6, max_new_tokens=8, emitted=tuple(alone[:3])))
    assert chunks_of(rig.step()) == [("a", 0, 9, True)]
    rig.run()
    assert seq.output_ids == alone


def test_schedule_without_work_is_empty() -> None:
    rig = Rig()
    assert not rig.scheduler.has_work
    assert rig.scheduler.schedule().chunks == ()


def test_decode_never_waits_for_prefills() -> None:
    rig = Rig(prefill_chunk=8, max_num_batched_tokens=12, num_blocks=200)
    seq = rig.add(prompt("first", 4, max_new_tokens=12))
    rig.step()
    for number in range(10):
        rig.add(prompt(f"p{number}", 30))
    while not seq.is_finished:
        before = seq.num_output_tokens
        rig.step()
        assert seq.num_output_tokens == before + 1


def test_admission_goes_by_priority_then_arrival() -> None:
    rig = Rig(max_num_seqs=1)
    for name, priority in [("c", 5), ("a", -1), ("b", 0), ("d", 5)]:
        rig.add(prompt(name, 3, max_new_tokens=1, priority=priority))
    rig.run()
    assert list(rig.finished) == ["a", "b", "c", "d"]


def test_later_short_prompts_do_not_overtake_a_long_one() -> None:
    rig = Rig(num_blocks=12, block_size=4)
    rig.add(prompt("running", 20, max_new_tokens=8))
    rig.step()
    long = rig.add(prompt("long", 36, max_new_tokens=2))
    for number in range(6):
        rig.add(prompt(f"short{number}", 2, max_new_tokens=1))
    while long.status is Status.WAITING:
        assert rig.scheduler.num_waiting == 7
        rig.step()
    assert "running" in rig.finished
    rig.run()
    assert rig.num_preemptions == 0


def test_prefill_budget_goes_to_the_earlier_arrival() -> None:
    rig = Rig(max_num_batched_tokens=10)
    rig.add(prompt("a", 25))
    rig.add(prompt("b", 4))
    assert chunks_of(rig.step()) == [("a", 0, 10, False)]
    assert rig.scheduler.num_waiting == 1  # no seat or pages before there are tokens to compute
    assert chunks_of(rig.step()) == [("a", 10, 10, False)]
    assert chunks_of(rig.step()) == [("a", 20, 5, True), ("b", 0, 4, True)]


def test_urgent_request_gets_the_budget_before_a_running_prefill() -> None:
    rig = Rig(max_num_batched_tokens=10)
    rig.add(prompt("a", 25))
    rig.step()
    rig.add(prompt("urgent", 6, priority=-1))
    assert chunks_of(rig.step()) == [("urgent", 0, 6, True), ("a", 10, 4, False)]


def test_urgent_request_takes_the_seat_of_the_least_urgent() -> None:
    rig = Rig(max_num_seqs=2)
    for name in "ab":
        rig.add(prompt(name, 3, max_new_tokens=9, priority=1))
    rig.step()
    rig.add(prompt("equal", 3, priority=1))
    assert rig.step().preempted == ()
    rig.add(prompt("urgent", 3))
    plan = rig.step()
    assert plan.preempted == ("b",) and ("urgent", 0, 3, True) in chunks_of(plan)
    rig.run()
    assert list(rig.finished) == ["urgent", "a", "b", "equal"]


def test_out_of_pages_the_latest_loses_its_own_and_comes_back_first() -> None:
    rig = Rig(num_blocks=6, block_size=4, prefix_cache=False)
    expected = {}
    for name in "abc":
        seq = rig.add(prompt(name, 6, max_new_tokens=9))
        expected[name] = undisturbed_outputs(seq)
    plan = rig.step()
    assert [chunk.seq.request_id for chunk in plan.chunks] == ["a", "b"]  # "c" would leave no page in reserve
    rig.run()
    assert rig.num_preemptions >= 1
    assert {name: seq.output_ids for name, seq in rig.finished.items()} == expected
    assert list(rig.finished)[0] == "a"


def test_requester_itself_may_be_the_victim() -> None:
    rig = Rig(num_blocks=5, block_size=4, prefix_cache=False)
    rig.add(prompt("a", 5, max_new_tokens=12))
    second = rig.add(prompt("b", 8, max_new_tokens=12))
    while not rig.num_preemptions:
        plan = rig.step()
    assert plan.preempted == ("b",) and second.status is Status.PREEMPTED
    assert second.block_table == [] and second.num_computed_tokens == 0 and second.num_output_tokens > 0
    rig.run()


def test_preempted_sequence_finds_its_prefix_again() -> None:
    rig = Rig(max_num_seqs=1)
    seq = rig.add(prompt("a", 13, max_new_tokens=9, priority=1))
    rig.step()
    rig.add(prompt("urgent", 3, max_new_tokens=1))
    assert rig.step().preempted == ("a",)
    assert chunks_of(rig.step()) == [("a", 12, 2, True)]
    assert seq.num_cached_tokens == 0  # usage speaks of the first admission


def test_single_sequence_may_use_the_whole_pool() -> None:
    rig = Rig(num_blocks=4, block_size=4)
    seq = prompt("a", 3, max_new_tokens=14)
    assert rig.scheduler.fits(seq)  # 17 tokens; the last one needs no slot
    expected = undisturbed_outputs(seq)
    rig.add(seq)
    rig.run()
    assert seq.output_ids == expected


def test_sequence_that_can_never_fit_is_refused() -> None:
    rig = Rig(num_blocks=4, block_size=4)
    seq = prompt("a", 3, max_new_tokens=15)
    assert not rig.scheduler.fits(seq)
    with pytest.raises(ValueError, match="more blocks"):
        rig.scheduler.add(seq)
    assert not rig.scheduler.has_work


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_ten_times_oversubscribed_pool_gives_exact_outputs_without_deadlock(seed: int, prefix_cache: bool) -> None:
    rng = random.Random(seed)
    rig = Rig(num_blocks=16, block_size=4, max_num_batched_tokens=32, prefill_chunk=16, prefix_cache=prefix_cache)
    expected: dict[str, list[int]] = {}
    num_blocks = 0
    while num_blocks < 160:
        name = f"r{len(expected)}"
        seq = prompt(name, rng.randrange(1, 40), rng.randrange(1, 22), priority=rng.randrange(2), stop_id=7)
        expected[seq.request_id] = undisturbed_outputs(seq)
        num_blocks += rig.blocks.blocks_for(seq.max_total_tokens - 1)
        rig.add(seq)
    rig.run(max_steps=1000)
    assert {name: seq.output_ids for name, seq in rig.finished.items()} == expected
    assert rig.num_preemptions > 0


def test_abort_frees_blocks_wherever_the_sequence_stands() -> None:
    rig = Rig(max_num_seqs=2, prefill_chunk=8)
    seqs = [rig.add(prompt(name, 20, media=(picture(4, 10, b"cat"),), priority=1)) for name in "abc"]
    rig.step()
    rig.add(prompt("urgent", 4))
    rig.step()
    assert [seq.status for seq in seqs] == [Status.RUNNING, Status.PREEMPTED, Status.WAITING]
    for name in "abc":
        rig.abort(name)
    rig.abort("urgent")
    assert all(seq.status is Status.FINISHED_ABORTED and seq.finish_reason is None for seq in seqs)
    assert rig.blocks.usage == 0 and not rig.scheduler.has_work and rig.encoder_cache.can_add(256)
    assert rig.scheduler.abort("a") is None


def test_sequence_that_ends_between_run_and_update_is_passed_over() -> None:
    rig = Rig()
    first, second = rig.add(prompt("a", 6)), rig.add(prompt("b", 6))
    plan = rig.scheduler.schedule()
    sampled = rig.runner.run(plan)
    rig.scheduler.finish(first, Status.FINISHED_ERROR)
    del sampled["a"]
    rig.scheduler.update(plan, sampled)
    assert first.num_output_tokens == 0 and first.num_computed_tokens == 0 and second.num_output_tokens == 1
    del rig.live["a"]
    rig.check()


def test_failed_step_is_planned_again() -> None:
    rig = Rig(encoder_tokens=6)
    media = (picture(1, 6, b"cat"), picture(8, 6, b"dog"))
    seqs = [rig.add(prompt(name, 16, media=media)) for name in "ab"]
    expected = undisturbed_outputs(seqs[1])
    plan = rig.scheduler.schedule()
    assert plan.encode
    rig.scheduler.discard(plan)
    rig.check()
    rig.abort("a")
    assert [item.tiles for item in rig.step().encode] == [b"cat"]
    rig.run()
    assert seqs[1].output_ids == expected


def test_failed_step_leaves_no_embedding_in_use() -> None:
    rig = Rig(encoder_tokens=6, prefix_cache=False)
    media = (picture(1, 6, b"cat"),)
    rig.add(prompt("a", 9, media=media))
    rig.run()
    rig.add(prompt("b", 9, media=media))
    rig.scheduler.discard(rig.scheduler.schedule())
    assert rig.encoder_cache.can_add(6)
    rig.run()
    assert rig.runner.encoded == [b"cat-key"]


def test_misuse_is_refused() -> None:
    rig = Rig()
    seq = rig.add(prompt("a", 4))
    with pytest.raises(ValueError, match="already in use"):
        rig.scheduler.add(prompt("a", 4))
    with pytest.raises(ValueError, match="cannot finish"):
        rig.scheduler.finish(seq, Status.PREEMPTED)
    with pytest.raises(ValueError, match="cannot finish"):
        rig.scheduler.finish(prompt("a", 4), Status.FINISHED_STOP)
    assert rig.scheduler.abort("unknown") is None
    with pytest.raises(ValueError, match="max_num_batched_tokens"):
        Rig(max_num_seqs=8, max_num_batched_tokens=7)
    with pytest.raises(ValueError, match="at least 1"):
        Rig(prefill_chunk=0)
