"""The scheduler under random requests, aborts and failures."""

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.fakes.digest_runner import undisturbed_outputs
from tests.fakes.prompts import picture, prompt
from tests.fakes.scheduling_rig import Rig
from workers.engine.sequence import MediaInput


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
        encode_steps=st.sampled_from([None, 0, 1, 4]),
        beside_tokens=st.sampled_from([0, 5, 64]),
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
        encode_steps: int | None,
        beside_tokens: int,
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
            encode_steps,
            beside_tokens=beside_tokens,
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
        self.rig.scheduler.discard(self.rig.plan())

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
