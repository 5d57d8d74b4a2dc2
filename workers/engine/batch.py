"""A step's plan as packed numpy arrays. Pure: no tensors, no model, no policy.

Row order inside a batch: one-token chunks (decode) first, sorted by context length so that those of like length are
read together, then longer chunks (prefill).
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from workers.engine.plan import Chunk
from workers.engine.sequence import Sequence

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class KeyOrder:
    """What a row sees where its pages are not simply filled from the front: the keys not above its own number.

    queries [rows]; keys [keys] or [rows, keys], a number for each slot of the pages from the first on.
    """

    queries: Ints
    keys: Ints


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Rows [start, stop) with one query token each, read together from page tables padded to one width.

    blocks [rows, width]: page ids, padded with page 0. lengths [rows]: keys to attend, the new one included; they
    ascend. serials [rows]: whose they are; None where a slot is no token.
    """

    start: int
    stop: int
    blocks: Ints
    lengths: Ints
    order: KeyOrder | None = None
    serials: Ints | None = None

    def first(self, count: int, block_size: int) -> "DecodeGroup":
        """Its first rows, with no more pages than they need; for a group without an order of its own."""
        lengths = self.lengths[:count]
        blocks = self.blocks[:count, : -(-int(lengths[-1]) // block_size)]
        return DecodeGroup(self.start, self.start + count, blocks, lengths)


@dataclass(frozen=True, slots=True)
class PrefillSlice:
    """Rows [start, stop) of one sequence, behind `context` tokens that are in pages already.

    blocks [n]: the pages that hold context and rows together.
    """

    start: int
    stop: int
    context: int
    blocks: Ints
    order: KeyOrder | None = None


class PageLayout(Protocol):
    """What attention reads of a batch: where new keys go, and which pages its rows look at."""

    @property
    def slots(self) -> Ints: ...
    @property
    def decode_groups(self) -> tuple[DecodeGroup, ...]: ...
    @property
    def prefills(self) -> tuple[PrefillSlice, ...]: ...


@dataclass(frozen=True, slots=True)
class MediaRows:
    """Rows [start, stop) are placeholders; their embeddings are rows [offset, ...) of the encoding `key`."""

    start: int
    stop: int
    key: bytes
    offset: int


@dataclass(frozen=True, slots=True)
class PromptRows:
    """Rows [start, start + count) say how likely the tokens of a prompt from `position` on are."""

    seq: Sequence
    start: int
    count: int
    position: int


@dataclass(frozen=True, slots=True)
class Batch:
    """One packed forward of T tokens, R of which are sampled behind.

    token_ids, positions, rope_lens, slots: int64 [T]; slot = page id * block size + offset in the page.
    sample_rows: int64 [R], rows whose logits are wanted, in the order of sample_seqs.
    """

    token_ids: Ints
    positions: Ints
    rope_lens: Ints
    slots: Ints
    decode_groups: tuple[DecodeGroup, ...]
    prefills: tuple[PrefillSlice, ...]
    media: tuple[MediaRows, ...]
    sample_rows: Ints
    sample_seqs: tuple[Sequence, ...]
    grid_positions: Ints | None = None
    """[3, T], for M-RoPE; None where all three are `positions`."""
    prompt_rows: tuple[PromptRows, ...] = ()

    def rows_by_type(self) -> tuple[Ints, Ints]:
        """Rows that are text, and rows that are placeholders of media; both ascending."""
        is_visual = np.zeros(len(self.token_ids), dtype=np.bool_)
        for rows in self.media:
            is_visual[rows.start : rows.stop] = True
        return np.flatnonzero(~is_visual), np.flatnonzero(is_visual)


def build_batch(chunks: Seq[Chunk], block_size: int) -> Batch:
    """Pack the chunks of one step."""
    decodes, prefills = packing_order(chunks)
    token_ids: list[int] = []
    positions: list[Ints] = []
    rope_lens: list[Ints] = []
    slots: list[Ints] = []
    media: list[MediaRows] = []
    sample_rows: list[int] = []
    sample_seqs: list[Sequence] = []
    slices: list[PrefillSlice] = []
    prompt_rows: list[PromptRows] = []
    for chunk in (*decodes, *prefills):
        seq, row, end = chunk.seq, len(token_ids), chunk.end
        token_ids.extend(seq.token_ids[chunk.start : end])
        where = np.arange(chunk.start, end, dtype=np.int64)
        table = np.asarray(seq.block_table[: -(-end // block_size)], dtype=np.int64)
        positions.append(where)
        rope_lens.append(np.maximum(where + 1, seq.num_prompt_tokens))
        slots.append(table[where // block_size] * block_size + where % block_size)
        media.extend(_media_rows(chunk, row))
        if chunk.samples:
            sample_rows.append(row + chunk.length - 1)
            sample_seqs.append(seq)
        if chunk.length > 1:
            slices.append(PrefillSlice(row, row + chunk.length, chunk.start, table))
        num_scoring = min(end, seq.num_prompt_tokens - 1) - chunk.start
        if seq.num_prompt_logprobs is not None and num_scoring > 0:
            prompt_rows.append(PromptRows(seq, row, num_scoring, chunk.start + 1))
    return Batch(
        token_ids=np.asarray(token_ids, dtype=np.int64),
        positions=np.concatenate(positions),
        rope_lens=np.concatenate(rope_lens),
        slots=np.concatenate(slots),
        decode_groups=tuple(_decode_groups(decodes, block_size)),
        prefills=tuple(slices),
        media=tuple(media),
        sample_rows=np.asarray(sample_rows, dtype=np.int64),
        sample_seqs=tuple(sample_seqs),
        grid_positions=_grid_positions((*decodes, *prefills)),
        prompt_rows=tuple(prompt_rows),
    )


def packing_order(chunks: Seq[Chunk]) -> tuple[list[Chunk], list[Chunk]]:
    """The chunks of one token, then the longer ones, as their rows follow each other in a batch."""
    return sorted((c for c in chunks if c.length == 1), key=lambda c: c.start), [c for c in chunks if c.length > 1]


def _grid_positions(chunks: Seq[Chunk]) -> Ints | None:
    """The columns of the chunks side by side; those of a sequence without a grid repeat its plain positions."""
    if all(chunk.seq.grid_positions is None for chunk in chunks):
        return None
    return np.concatenate([_grid_columns(chunk) for chunk in chunks], axis=1)


def _grid_columns(chunk: Chunk) -> Ints:
    grid, first_output = chunk.seq.grid_positions, chunk.seq.num_prompt_tokens
    plain = np.tile(np.arange(chunk.start, chunk.end, dtype=np.int64), (3, 1))
    if grid is None:
        return plain
    columns: Ints = plain + grid.offset
    inside = grid.prompt[:, chunk.start : min(chunk.end, first_output)]
    columns[:, : inside.shape[1]] = inside
    return columns


def _media_rows(chunk: Chunk, row: int) -> list[MediaRows]:
    """The placeholder rows of a chunk whose first row in the batch is `row`."""
    shift = row - chunk.start
    rows = []
    for span in chunk.seq.media_between(chunk.start, chunk.end):
        first, last = max(span.start, chunk.start), min(span.end, chunk.end)
        rows.append(MediaRows(first + shift, last + shift, span.key, span.offset + first - span.start))
    return rows


def group_by_width(widths: Seq[int]) -> list[tuple[int, int]]:
    """Divide ascending page counts so that padding never costs more than the pages that are really read, plus a little:
    a group more costs a fixed number of kernel launches, a padded page costs memory traffic. Groups as [first, last).
    """
    groups: list[tuple[int, int]] = []
    first, used = 0, 0
    for i, width in enumerate(widths):
        count = i - first + 1
        if count > 1 and width * count > 1.5 * (used + width) + 16:
            groups.append((first, i))
            first, used = i, 0
        used += width
    return [*groups, (first, len(widths))] if widths else []


def pad_tables(seqs: Seq[Sequence], widths: Seq[int]) -> Ints:
    """The first pages of each sequence [rows, widest], padded with page 0; `widths` ascend."""
    blocks = np.zeros((len(seqs), widths[-1]), dtype=np.int64)
    for row, (seq, width) in enumerate(zip(seqs, widths, strict=True)):
        blocks[row, :width] = seq.block_table[:width]
    return blocks


def _decode_groups(decodes: Seq[Chunk], block_size: int) -> list[DecodeGroup]:
    widths = [c.start // block_size + 1 for c in decodes]
    groups = []
    for first, last in group_by_width(widths):
        blocks = pad_tables([c.seq for c in decodes[first:last]], widths[first:last])
        lengths = np.fromiter((c.start + 1 for c in decodes[first:last]), np.int64, last - first)
        serials = np.fromiter((c.seq.serial for c in decodes[first:last]), np.int64, last - first)
        groups.append(DecodeGroup(first, last, blocks, lengths, serials=serials))
    return groups
