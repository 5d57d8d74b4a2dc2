"""A runner whose keys and values are plain digests, so that every slot's right content is decidable.

The value of a token is a digest of the value before it (read through the block table, as a deep layer's keys and
values depend on all before), its id, the media row that it stands for, and its rope regime. The next token is a digest
of the last value. A sequence's `sampling` is its stop id, or None.
"""

import hashlib
from collections.abc import Iterable

from workers.engine.plan import Chunk, StepPlan
from workers.engine.sequence import MediaInput, Sequence

VOCABULARY = 50


def value_of(before: bytes, seq: Sequence, position: int, embeddings: dict[bytes, bytes] | None) -> bytes:
    """embeddings: by media key; None: take each item's tiles, as if the tower had just run."""
    content = b""
    for item in seq.media_between(position, position + 1):
        tiles = item.tiles if embeddings is None else embeddings[item.key]
        content = tiles + (item.offset + position - item.start).to_bytes(4)
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


class DigestRunner:
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
        self.keep(plan.encode)
        for chunk in plan.chunks:
            self.prefill(chunk)
        sampled = {}
        for chunk in plan.chunks:  # after all writes: two sequences that write one slot are found out here
            attended = [self._slots[self._slot(chunk.seq, position)] for position in range(chunk.end)]
            assert attended == self._right_values(chunk.seq)[: chunk.end]
            if chunk.samples:
                sampled[chunk.seq.request_id] = token_after(attended[-1])
        return sampled

    def prefill(self, chunk: Chunk) -> None:
        """Write a chunk's slots."""
        for position in range(chunk.start, chunk.end):
            before = self._slots[self._slot(chunk.seq, position - 1)] if position else b""
            self._slots[self._slot(chunk.seq, position)] = value_of(before, chunk.seq, position, self.embeddings)

    def keep(self, encoded: Iterable[MediaInput]) -> None:
        """The tower's embeddings of these."""
        for item in encoded:
            assert item.key not in self.embeddings
            self.embeddings[item.key] = item.tiles
            self.encoded.append(item.key)

    def _slot(self, seq: Sequence, position: int) -> int:
        return seq.block_table[position // self._block_size] * self._block_size + position % self._block_size

    def _right_values(self, seq: Sequence) -> list[bytes]:
        values = self._right.setdefault(seq, [])
        for position in range(len(values), seq.num_tokens):
            values.append(value_of(values[-1] if values else b"", seq, position, None))
        return values
