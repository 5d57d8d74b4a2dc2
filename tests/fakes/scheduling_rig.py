"""A scheduler with a runner whose keys and values are plain digests, so that every slot's right content is decidable.

The value of a token is a digest of the value before it (read through the block table, as a deep layer's keys and
values depend on all before), its id, the media row that it stands for, and its rope regime. The next token is a digest
of the last value. A sequence's `sampling` is its stop id, or None.
"""

import hashlib

from workers.engine.block_manager import BlockManager
from workers.engine.encoder_cache import EncoderCache
from workers.engine.plan import StepPlan
from workers.engine.scheduler import Scheduler
from workers.engine.sequence import Sequence, Status

VOCABULARY = 50


def value_of(before: bytes, seq: Sequence, position: int, embeddings: dict[bytes, bytes] | None) -> bytes:
    """embeddings: by media key; None: take each item's tiles, as if the tower had just run."""
    content = b""
    for item in seq.media_between(position, position + 1):
        tiles = item.tiles if embeddings is None else embeddings[item.key]
        content = tiles + (position - item.start).to_bytes(4)
    regime = 0 if seq.rope_regime is None else seq.rope_regime(max(seq.num_prompt_tokens, position + 1))
    return hashlib.sha256(before + repr((position, seq.token_ids[position], content, regime)).encode()).digest()


def token_after(value: bytes) -> int:
    return value[0] % VOCABULARY


def undisturbed_outputs(seq: Sequence) -> list[int]:
    """What the sequence (not yet run) gives alone, without pages or caches."""
    alone = Sequence(
        seq.request_id,
        list(seq.token_ids),
        seq.num_prompt_tokens,
        seq.max_total_tokens,
        seq.media,
        rope_regime=seq.rope_regime,
    )
    value = b""
    for position in range(alone.max_total_tokens - 1):
        value = value_of(value, alone, position, None)
        if position == alone.num_tokens - 1:
            alone.token_ids.append(token_after(value))
            if alone.token_ids[-1] == seq.sampling:
                break
    return alone.output_ids


class FakeRunner:
    """Owns slots and embeddings, as the real one does, and checks every slot that a chunk attends."""

    def __init__(self, num_slots: int, block_size: int) -> None:
        self._slots: list[bytes] = [b"never written"] * num_slots
        self._block_size = block_size
        self._right: dict[Sequence, list[bytes]] = {}
        self.embeddings: dict[bytes, bytes] = {}
        self.encoded: list[bytes] = []

    def run(self, plan: StepPlan) -> dict[str, int]:
        for key in plan.drop_embeddings:
            self.embeddings.pop(key, None)
        for item in plan.encode:
            assert item.key not in self.embeddings
            self.embeddings[item.key] = item.tiles
            self.encoded.append(item.key)
        for chunk in plan.chunks:
            for position in range(chunk.start, chunk.end):
                before = self._slots[self._slot(chunk.seq, position - 1)] if position else b""
                self._slots[self._slot(chunk.seq, position)] = value_of(before, chunk.seq, position, self.embeddings)
        sampled = {}
        for chunk in plan.chunks:  # after all writes: two sequences that write one slot are found out here
            attended = [self._slots[self._slot(chunk.seq, position)] for position in range(chunk.end)]
            assert attended == self._right_values(chunk.seq)[: chunk.end]
            if chunk.samples:
                sampled[chunk.seq.request_id] = token_after(attended[-1])
        return sampled

    def _slot(self, seq: Sequence, position: int) -> int:
        return seq.block_table[position // self._block_size] * self._block_size + position % self._block_size

    def _right_values(self, seq: Sequence) -> list[bytes]:
        values = self._right.setdefault(seq, [])
        for position in range(len(values), seq.num_tokens):
            values.append(value_of(values[-1] if values else b"", seq, position, None))
        return values


class Rig:
    """The engine's step with the fake runner, and every invariant of a plan checked in each step."""

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
    ) -> None:
        self.blocks = BlockManager(num_blocks, block_size, prefix_cache)
        self.encoder_cache = EncoderCache(encoder_tokens, token_bytes=1)
        self.scheduler = Scheduler(
            self.blocks, self.encoder_cache, max_num_seqs, max_num_batched_tokens, max_encode_tokens, prefill_chunk
        )
        self.runner = FakeRunner(num_blocks * block_size, block_size)
        self.live: dict[str, Sequence] = {}
        self.finished: dict[str, Sequence] = {}
        self.num_preemptions = 0
        self._limits = (max_num_seqs, max_num_batched_tokens, max_encode_tokens, prefill_chunk)

    def add(self, seq: Sequence) -> Sequence:
        self.scheduler.add(seq)
        self.live[seq.request_id] = seq
        return seq

    def abort(self, request_id: str) -> None:
        seq = self.scheduler.abort(request_id)
        assert seq is self.live.pop(request_id)
        self.check()

    def step(self) -> StepPlan:
        decoding = [seq for seq in self.live.values() if seq.status is Status.RUNNING and seq.num_uncomputed == 1]
        plan = self.scheduler.schedule()
        self._check_plan(plan, decoding)
        sampled = self.runner.run(plan)
        assert len(self.runner.embeddings) == len(self.encoder_cache)
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
        assert plan.chunks or not self.live
        assert plan.num_tokens <= max_num_batched_tokens and self.scheduler.num_running <= max_num_seqs
        assert all(chunk.length <= (prefill_chunk or max_num_batched_tokens) for chunk in plan.chunks)
        scheduled = {chunk.seq for chunk in plan.chunks}
        assert len(scheduled) == len(plan.chunks)
        assert all(seq in scheduled or seq.status is Status.PREEMPTED or seq.media for seq in decoding)
        for chunk in plan.chunks:
            assert chunk.start == chunk.seq.num_computed_tokens and chunk.length >= 1
            assert chunk.samples == (chunk.end == chunk.seq.num_tokens)
        assert len(plan.encode) == 1 or sum(item.length for item in plan.encode) <= max_encode_tokens
        assert len({item.key for item in plan.encode}) == len(plan.encode)
        for item in plan.encode:
            assert any(item in chunk.seq.media_between(chunk.start, chunk.end) for chunk in plan.chunks)
