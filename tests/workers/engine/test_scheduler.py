import random
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.fakes.scheduling_rig import Rig, undisturbed_outputs
from workers.engine.sequence import MediaInput, Sequence, Status

PLACEHOLDER = 1000


def prompt(
    request_id: str,
    num_tokens: int,
    max_new_tokens: int = 4,
    media: tuple[MediaInput, ...] = (),
    priority: int = 0,
    seed: int = 0,
    emitted: tuple[int, ...] = (),
    rope_regime: Callable[[int], int] | None = None,
    stop_id: int | None = None,
) -> Sequence:
    """A prompt of which every (id, length) pair has its own tokens unless the seeds are equal."""
    rng = random.Random(seed or request_id)
    token_ids = [rng.randrange(100, 900) for _ in range(num_tokens)]
    for item in media:
        token_ids[item.start : item.end] = [PLACEHOLDER] * item.length
    return Sequence(
        request_id,
        [*token_ids, *emitted],
        num_tokens,
        num_tokens + max_new_tokens,
        media,
        priority=priority,
        rope_regime=rope_regime,
        sampling=stop_id,
    )


def picture(start: int, length: int, content: bytes) -> MediaInput:
    return MediaInput(start, length, key=content + b"-key", tiles=content)


def chunks_of(plan: object) -> list[tuple[str, int, int, bool]]:
    return [(chunk.seq.request_id, chunk.start, chunk.length, chunk.samples) for chunk in plan.chunks]  # type: ignore[attr-defined]


# --- batching, chunks, budgets ---


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


# --- order and fairness ---


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


# --- pages ---


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


# --- prefix cache ---


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


# --- vision tower ---


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


# --- ends and failures ---


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


# --- everything at once ---


class SchedulerMachine(RuleBasedStateMachine):
    """Random requests, aborts, failures and limits; outputs must equal the undisturbed run's."""

    @initialize(
        num_blocks=st.integers(8, 24),
        block_size=st.sampled_from([1, 3, 4, 16]),
        max_num_seqs=st.integers(1, 6),
        spare_budget=st.sampled_from([0, 3, 16, 64]),
        prefill_chunk=st.sampled_from([None, 1, 5, 16]),
        max_encode_tokens=st.sampled_from([1, 6, 40]),
        encoder_tokens=st.sampled_from([0, 4, 9, 64]),
        prefix_cache=st.booleans(),
    )
    def start(
        self,
        num_blocks: int,
        block_size: int,
        max_num_seqs: int,
        spare_budget: int,
        prefill_chunk: int | None,
        max_encode_tokens: int,
        encoder_tokens: int,
        prefix_cache: bool,
    ) -> None:
        self.rig = Rig(
            num_blocks,
            block_size,
            max_num_seqs,
            max_num_seqs + spare_budget,
            max_encode_tokens,
            prefill_chunk,
            encoder_tokens,
            prefix_cache,
        )
        self.expected: dict[str, list[int]] = {}
        self.num_added = 0

    @rule(
        num_copies=st.integers(1, 5),
        family=st.integers(1, 2),
        num_tokens=st.integers(1, 40),
        max_new_tokens=st.integers(1, 12),
        pictures=st.lists(
            st.tuples(st.integers(0, 12), st.integers(1, 8), st.sampled_from(["x", "y", "z"])), max_size=3
        ),
        priority=st.integers(0, 2),
        rope_limit=st.sampled_from([None, None, 12, 30]),
        num_emitted=st.integers(0, 4),
    )
    def add(
        self,
        num_copies: int,
        family: int,
        num_tokens: int,
        max_new_tokens: int,
        pictures: list[tuple[int, int, str]],
        priority: int,
        rope_limit: int | None,
        num_emitted: int,
    ) -> None:
        media: list[MediaInput] = []
        end = 0
        for gap, length, name in pictures:
            if end + gap + length <= num_tokens:
                media.append(picture(end + gap, length, f"{name}{length}".encode()))
                end += gap + length
        regime = None if rope_limit is None else (lambda length: length if length > rope_limit else 0)
        for extra in range(num_copies):  # equal prefixes of different lengths
            request_id = f"r{self.num_added}"
            seq = prompt(
                request_id,
                num_tokens + 3 * extra,
                max_new_tokens,
                tuple(media),
                priority,
                family,
                (),
                regime,
                stop_id=7,
            )
            if regime is not None:
                seq.cache_salt = str(rope_limit).encode()  # a model has one rope: different ones share no cache
            expected = undisturbed_outputs(seq)
            seq.token_ids.extend(expected[: min(num_emitted, len(expected) - 1)])
            if self.rig.scheduler.fits(seq):
                self.num_added += 1
                self.expected[request_id] = expected
                self.rig.add(seq)

    @rule(num_steps=st.integers(1, 4))
    def step(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.rig.step()

    @precondition(lambda self: len(self.rig.live) > 3)
    @rule(choice=st.randoms(use_true_random=False))
    def abort(self, choice: random.Random) -> None:
        request_id = choice.choice(sorted(self.rig.live))
        del self.expected[request_id]
        self.rig.abort(request_id)

    @rule()
    def fail_a_step(self) -> None:
        self.rig.scheduler.discard(self.rig.scheduler.schedule())

    @rule()
    def reset_prefix_cache(self) -> None:
        assert self.rig.blocks.reset_prefix_cache() == (self.rig.blocks.usage == 0)

    @invariant()
    def books_balance(self) -> None:
        if hasattr(self, "rig"):
            self.rig.check()

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        self.rig.run(max_steps=5000)
        assert {name: seq.output_ids for name, seq in self.rig.finished.items()} == self.expected


SchedulerMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, derandomize=True, database=None
)
TestSchedulerMachine = SchedulerMachine.TestCase
