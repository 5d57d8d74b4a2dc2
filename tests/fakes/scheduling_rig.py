"""The engine's step round the real scheduler and the digest runner, every invariant checked in each step."""

import math

from tests.fakes.digest_runner import DigestRunner
from workers.engine.block_manager import BlockManager
from workers.engine.encoder_cache import EncoderCache
from workers.engine.plan import Chunk, StepPlan
from workers.engine.prefill_pace import PrefillPace
from workers.engine.scheduler import Scheduler
from workers.engine.sequence import MediaInput, Sequence, Status


class Rig:
    """Sequences live here until they end; `sampling` is their stop id, or None.

    encode_steps: None: the tower runs in the step. Else it runs beside the steps, and takes so many of them.
    beside_tokens: most of a prompt that is computed beside the steps at once, in as many steps as the tower takes. Its
        keys and values are written when it begins and once more when it is done: nobody may touch them in between.
    """

    def __init__(
        self,
        num_blocks: int = 64,
        block_size: int = 4,
        max_num_seqs: int = 8,
        max_num_batched_tokens: int = 64,
        max_encode_tokens: int = 64,
        prefill_chunk: int | None = None,
        encoder_tokens: int = 256,
        prefix_cache: bool = True,
        encode_steps: int | None = None,
        prefill_per_decode: int | None = None,
        beside_tokens: int = 0,
    ) -> None:
        self.blocks = BlockManager(num_blocks, block_size, prefix_cache)
        self.encoder_cache = EncoderCache(encoder_tokens, token_bytes=1)
        self.scheduler = Scheduler(
            self.blocks,
            self.encoder_cache,
            max_num_seqs,
            max_num_batched_tokens,
            max_encode_tokens,
            prefill_chunk,
            beside_share=0.0 if encode_steps is None else math.inf,
            beside_tokens=beside_tokens,
            pace=None if prefill_per_decode is None else PrefillPace(prefill_per_decode),
        )
        self.encoding: tuple[MediaInput, ...] = ()  # what the tower is at, beside the steps
        self.prefilling: Chunk | None = None  # what is computed beside them
        self._encode_steps = encode_steps or 0
        self._steps_left = 0
        self.runner = DigestRunner(num_blocks * block_size, block_size)
        self.live: dict[str, Sequence] = {}
        self.finished: dict[str, Sequence] = {}
        self.num_preemptions = 0
        self._limits = (max_num_seqs, max_num_batched_tokens, max_encode_tokens, prefill_chunk)

    def add(self, seq: Sequence) -> Sequence:
        self.scheduler.add(seq)
        self.live[seq.request_id] = seq
        return seq

    def abort(self, request_id: str) -> None:
        if self.scheduler.is_prefilling_beside(request_id):
            self.finish_beside()
        seq = self.scheduler.abort(request_id)
        assert seq is self.live.pop(request_id)
        self.check()

    def step(self) -> StepPlan:
        decoding = [seq for seq in self.live.values() if seq.status is Status.RUNNING and seq.num_uncomputed == 1]
        if self.is_busy_beside and self._steps_left <= 0:
            self.finish_beside()
        self._steps_left -= 1
        plan = self.plan()
        self._check_plan(plan, decoding)
        if not plan.chunks and self.is_busy_beside:
            self.finish_beside()
        sampled = self.runner.run(plan)
        assert len(self.runner.embeddings) == len(self.encoder_cache) - len(self.encoding)
        assert all(key in self.encoder_cache for key in self.runner.embeddings)
        self.scheduler.update(plan, sampled)
        for request_id, token_id in sampled.items():
            seq = self.live[request_id]
            if token_id == seq.sampling or seq.is_at_limit:
                is_stop = token_id == seq.sampling
                self.scheduler.finish(seq, Status.FINISHED_STOP if is_stop else Status.FINISHED_LENGTH)
                self.finished[request_id] = self.live.pop(request_id)
        self.num_preemptions += len(plan.preempted)
        self.check()
        return plan

    def plan(self) -> StepPlan:
        """Plan a step; what is to be computed beside it begins."""
        plan = self.scheduler.schedule()
        if plan.encode_beside:
            assert not self.encoding and not plan.encode
            assert any(chunk.length == 1 for chunk in plan.chunks)
            self.encoding, self._steps_left = plan.encode_beside, self._encode_steps
        if plan.prefill_beside:
            assert not self.encoding and self.prefilling is None
            self.prefilling, self._steps_left = plan.prefill_beside, self._encode_steps
            self.runner.prefill(self.prefilling)
        return plan

    @property
    def is_busy_beside(self) -> bool:
        return bool(self.encoding) or self.prefilling is not None

    def finish_beside(self) -> None:
        """What was computed beside the steps is done."""
        if self.prefilling is not None:
            self.runner.prefill(self.prefilling)
            self.prefilling = None
            self.scheduler.prefilled_beside()
        else:
            self.runner.keep(self.encoding)
            self.encoding = ()
            self.scheduler.encoded_beside()

    def run(self, max_steps: int = 10_000) -> int:
        """Step until nothing is left; returns how many steps that took."""
        for num_steps in range(max_steps):
            if not self.scheduler.has_work:
                assert not self.live and self.blocks.usage == 0
                return num_steps
            self.step()
        raise AssertionError(f"{len(self.live)} sequences are left after {max_steps} steps")

    def check(self) -> None:
        self.blocks.check(self.live.values())
        self.encoder_cache.check()
        assert self.scheduler.num_running + self.scheduler.num_waiting == len(self.live)

    def _check_plan(self, plan: StepPlan, decoding: list[Sequence]) -> None:
        max_num_seqs, max_num_batched_tokens, max_encode_tokens, prefill_chunk = self._limits
        assert plan.chunks or self.is_busy_beside or not self.live
        assert plan.num_tokens <= max_num_batched_tokens and self.scheduler.num_running <= max_num_seqs
        assert all(chunk.length <= (prefill_chunk or max_num_batched_tokens) for chunk in plan.chunks)
        scheduled = {chunk.seq for chunk in plan.chunks}
        assert len(scheduled) == len(plan.chunks)
        assert all(
            seq in scheduled or seq.status is Status.PREEMPTED or seq.media or self._waits_for_pages(seq)
            for seq in decoding
        )
        if self.prefilling is not None:
            assert self.prefilling.seq not in scheduled and not self.prefilling.samples
            assert self.prefilling.end < self.prefilling.seq.num_tokens
        for chunk in plan.chunks:
            assert chunk.start == chunk.seq.num_computed_tokens and chunk.length >= 1
            assert chunk.samples == (chunk.end == chunk.seq.num_tokens)
        for encode in (plan.encode, plan.encode_beside):
            assert len(encode) == 1 or sum(item.length for item in encode) <= max_encode_tokens
            assert len({item.key for item in encode}) == len(encode)
        for item in plan.encode:
            assert any(item in chunk.seq.media_between(chunk.start, chunk.end) for chunk in plan.chunks)

    def _waits_for_pages(self, seq: Sequence) -> bool:
        """Whether the pages that it needs are those of the chunk beside the steps."""
        return self.prefilling is not None and not self.blocks.can_allocate(seq, seq.num_tokens)
