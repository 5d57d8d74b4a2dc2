"""A step's plan as packed numpy arrays. Pure: no tensors, no model, no policy.

Row order inside a batch: one-token chunks (decode) first, sorted by context length so that those of like length are
read together, then longer chunks (prefill).
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.engine.plan import Chunk
from workers.engine.sequence import Sequence

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Rows [start, stop) with one query token each, read together from page tables padded to one width.

    blocks [rows, width]: page ids, padded with page 0. lengths [rows]: keys to attend, the new one included.
    """

    start: int
    stop: int
    blocks: Ints
    lengths: Ints


@dataclass(frozen=True, slots=True)
class PrefillSlice:
    """Rows [start, stop) of one sequence, behind `context` tokens that are in pages already.

    blocks [n]: the pages that hold context and rows together.
    """

    start: int
    stop: int
    context: int
    blocks: Ints


@dataclass(frozen=True, slots=True)
class MediaRows:
    """Rows [start, stop) are placeholders; their embeddings are rows [offset, ...) of the media item `key`."""

    start: int
    stop: int
    key: bytes
    offset: int


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

    def rows_by_type(self) -> tuple[Ints, Ints]:
        """Rows that are text, and rows that are placeholders of media; both ascending."""
        is_visual = np.zeros(len(self.token_ids), dtype=np.bool_)
        for rows in self.media:
            is_visual[rows.start : rows.stop] = True
        return np.flatnonzero(~is_visual), np.flatnonzero(is_visual)


def build_batch(chunks: Seq[Chunk], block_size: int) -> Batch:
    """Pack the chunks of one step."""
    decodes = sorted((c for c in chunks if c.length == 1), key=lambda c: c.start)
    prefills = [c for c in chunks if c.length > 1]
    token_ids: list[int] = []
    positions: list[Ints] = []
    rope_lens: list[Ints] = []
    slots: list[Ints] = []
    media: list[MediaRows] = []
    sample_rows: list[int] = []
    sample_seqs: list[Sequence] = []
    slices: list[PrefillSlice] = []
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
    )


def _media_rows(chunk: Chunk, row: int) -> list[MediaRows]:
    """The placeholder rows of a chunk whose first row in the batch is `row`."""
    shift = row - chunk.start
    rows = []
    for span in chunk.seq.media_between(chunk.start, chunk.end):
        first, last = max(span.start, chunk.start), min(span.end, chunk.end)
        rows.append(MediaRows(first + shift, last + shift, span.key, first - span.start))
    return rows


def _decode_groups(decodes: Seq[Chunk], block_size: int) -> list[DecodeGroup]:
    """Split length-sorted decodes so that padding never costs more than the pages that are really read, plus a little:
    a group more costs a fixed number of kernel launches, a padded page costs memory traffic."""
    widths = [c.start // block_size + 1 for c in decodes]
    groups: list[DecodeGroup] = []
    first, used = 0, 0
    for i, width in enumerate(widths):
        count = i - first + 1
        if count > 1 and width * count > 1.5 * (used + width) + 16:
            groups.append(_decode_group(decodes, widths, first, i))
            first, used = i, 0
        used += width
    if decodes:
        groups.append(_decode_group(decodes, widths, first, len(decodes)))
    return groups


def _decode_group(decodes: Seq[Chunk], widths: Seq[int], first: int, last: int) -> DecodeGroup:
    blocks = np.zeros((last - first, widths[last - 1]), dtype=np.int64)
    for row, chunk in enumerate(decodes[first:last]):
        width = widths[first + row]
        blocks[row, :width] = chunk.seq.block_table[:width]
    lengths = np.fromiter((c.start + 1 for c in decodes[first:last]), np.int64, last - first)
    return DecodeGroup(first, last, blocks, lengths)
