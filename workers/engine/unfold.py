"""A step as a lower stack sees it that has a row for every part of a visual token. Pure numpy, like `batch`.

Each token owns as many slots as a visual token has parts; text fills the first of them. Rows are numbered through the
unfolded prompt, text and patches in their own order, so that the parts of one token are no neighbours: keys are visible
by number, not by slot. Generated tokens follow the authors' code: each stands at the last number of the prompt and sees
the prompt, but neither itself nor what was generated before it.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import chain

import numpy as np

from workers.engine.batch import DecodeGroup, Ints, KeyOrder, PrefillSlice, group_by_width, packing_order, pad_tables
from workers.engine.plan import Chunk
from workers.engine.sequence import Sequence
from workers.models.base import Unfolding

EMPTY = np.iinfo(np.int64).max
"""The number of a slot that nothing sees."""


@dataclass(frozen=True, slots=True)
class UnfoldedBatch:
    """One forward of the lower stack, U rows.

    rows [U]: (row in the packed batch) * parts + part. positions [U]. slots [U]: page id * slots of a page + place.
    """

    rows: Ints
    positions: Ints
    slots: Ints
    decode_groups: tuple[DecodeGroup, ...]
    prefills: tuple[PrefillSlice, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows of one chunk that are attended alike. places: their slots, counted from the sequence's first, of which
    `first_place` is the least; numbers: those of the slots that they may see."""

    seq: Sequence
    first_place: int
    places: Ints
    rows: Ints
    positions: Ints
    numbers: Ints


def unfold_batch(chunks: Seq[Chunk], block_size: int, unfolding: Unfolding) -> UnfoldedBatch:
    """The lower stack's side of `build_batch`. In a tile, a chunk must end where a line of tokens does."""
    page = block_size * unfolding.parts
    pieces: list[_Piece] = []
    row = 0
    for chunk in chain(*packing_order(chunks)):
        pieces += _pieces(chunk, row, unfolding)
        row += chunk.length
    generated = [p for p in pieces if len(p.rows) == 1 and p.first_place == len(p.numbers)]
    generated.sort(key=lambda piece: len(piece.numbers))
    longer = [p for p in pieces if len(p.rows) > 1 or p.first_place < len(p.numbers)]
    prefills: list[PrefillSlice] = []
    for piece in longer:
        start = prefills[-1].stop if prefills else len(generated)
        prefills.append(_prefill(piece, start, page))
    ordered = generated + longer
    return UnfoldedBatch(
        rows=np.concatenate([p.rows for p in ordered]),
        positions=np.concatenate([p.positions for p in ordered]),
        slots=np.concatenate([_pool_slots(p, page) for p in ordered]),
        decode_groups=tuple(_decode_groups(generated, page)),
        prefills=tuple(prefills),
    )


def number_slots(seq: Sequence, end: int, unfolding: Unfolding) -> Ints:
    """Numbers in the unfolded prompt of the slots of tokens [0, end); `end` lies within the prompt."""
    parts = unfolding.parts
    numbers = np.full((end, parts), EMPTY, dtype=np.int64)
    numbers[:, 0] = np.arange(end)
    pattern = _tile_pattern(unfolding)
    for item in seq.media_between(0, end):
        numbers[item.end :, 0] += item.length * (parts - 1)
        where = np.arange(min(item.end, end) - item.start)
        tile = where // len(pattern)
        inside = pattern[where % len(pattern)] + (tile * len(pattern) * parts)[:, None]
        numbers[item.start : item.end] = numbers[item.start, 0] + inside
    return numbers.reshape(-1)


def _tile_pattern(unfolding: Unfolding) -> Ints:
    """[tokens of a tile, parts]: where each part is among the tile's patches, which go row by row."""
    side, scale = unfolding.token_grid, unfolding.scale
    patches = np.arange((side * scale) ** 2).reshape(side, scale, side, scale)
    return patches.swapaxes(1, 2).reshape(side * side, scale * scale)


def _pieces(chunk: Chunk, row: int, unfolding: Unfolding) -> list[_Piece]:
    """A chunk's prompt rows by number, and its generated ones; `row` is its first in the packed batch."""
    seq, parts = chunk.seq, unfolding.parts
    num_prompt = seq.num_prompt_tokens
    numbers = number_slots(seq, min(chunk.end, num_prompt), unfolding)
    shift = (row - chunk.start) * parts
    pieces = []
    if chunk.start < num_prompt:
        first = chunk.start * parts
        order = np.argsort(numbers[first:], kind="stable")
        places = first + order[: np.count_nonzero(numbers[first:] != EMPTY)]
        pieces.append(_Piece(seq, first, places, places + shift, numbers[places], numbers))
    if chunk.end > num_prompt:
        places = np.arange(max(chunk.start, num_prompt), chunk.end) * parts
        last = num_prompt - 1 + sum(item.length for item in seq.media) * (parts - 1)
        pieces.append(_Piece(seq, num_prompt * parts, places, places + shift, np.full(len(places), last), numbers))
    return pieces


def _prefill(piece: _Piece, start: int, page: int) -> PrefillSlice:
    table = np.asarray(piece.seq.block_table[: -(-len(piece.numbers) // page)], dtype=np.int64)
    # From the front of a prompt, each row sees those before it and there is nothing else.
    order = KeyOrder(piece.positions, piece.numbers) if piece.first_place else None
    return PrefillSlice(start, start + len(piece.rows), piece.first_place, table, order)


def _decode_groups(pieces: Seq[_Piece], page: int) -> list[DecodeGroup]:
    widths = [-(-len(piece.numbers) // page) for piece in pieces]
    groups = []
    for first, last in group_by_width(widths):
        members = pieces[first:last]
        lengths = np.asarray([len(piece.numbers) for piece in members], dtype=np.int64)
        keys = np.full((len(members), lengths.max()), EMPTY, dtype=np.int64)
        for keys_row, piece in zip(keys, members, strict=True):
            keys_row[: len(piece.numbers)] = piece.numbers
        blocks = pad_tables([piece.seq for piece in members], widths[first:last])
        order = KeyOrder(np.concatenate([piece.positions for piece in members]), keys)
        groups.append(DecodeGroup(first, last, blocks, lengths, order))
    return groups


def _pool_slots(piece: _Piece, page: int) -> Ints:
    table = np.asarray(piece.seq.block_table, dtype=np.int64)
    return table[piece.places // page] * page + piece.places % page
