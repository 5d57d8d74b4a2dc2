"""Prompt items to token ids: each media mark becomes as many placeholder ids as its tiles have visual tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workers.prompts.render import MediaMark, PromptItem
from workers.tokenizers.base import Run, Tokenizer, TokenizerError

IMAGE_START, PLACEHOLDER, IMAGE_END = "<img>", "<IMG_CONTEXT>", "</img>"


@dataclass(frozen=True, slots=True)
class MediaSpan:
    """Ids [start, start + length) of a prompt stand for tiles [tile_start, tile_start + num_tiles) of a medium."""

    media_index: int
    tile_start: int
    num_tiles: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class SpanInput:
    """What the vision tower takes for one span, where that is not a slice of the medium's tiles.

    digest: equal digests mean equal embeddings. offset, num_encoded: see `MediaInput`.
    """

    data: Any
    digest: bytes
    offset: int = 0
    num_encoded: int | None = None


@dataclass(frozen=True, slots=True)
class PromptIds:
    """A prompt ready for the model. Spans ascend by `start` and cover exactly the placeholder ids.

    inputs: one for each span, or none at all. grid_positions: int64 array [3, len(token_ids)] for M-RoPE.
    """

    token_ids: list[int]
    spans: list[MediaSpan]
    inputs: tuple[SpanInput, ...] = ()
    grid_positions: Any = None


def build_prompt(
    items: Sequence[PromptItem],
    media_tile_counts: Sequence[Sequence[int]],
    tokens_per_tile: int,
    tokenizer: Tokenizer,
) -> PromptIds:
    """Encode the items and lay out the placeholders.

    media_tile_counts: per media item, in the request's order: [tiles] for an image, [tiles of each frame] for a video.
    Raises TokenizerError when the tokenizer has no placeholder token, ValueError when a medium has no place or two.
    """
    placeholder_id = tokenizer.token_id(PLACEHOLDER)
    if placeholder_id is None and media_tile_counts:
        raise TokenizerError(f"the tokenizer has no {PLACEHOLDER} token")
    marks = [item for item in items if isinstance(item, MediaMark)]
    _check_places(marks, media_tile_counts)
    runs = [item if isinstance(item, Run) else Run(IMAGE_START + PLACEHOLDER + IMAGE_END, True) for item in items]
    token_ids: list[int] = []
    spans: list[MediaSpan] = []
    remaining = iter(marks)
    # Plain text never yields the placeholder id, so the n-th one in the encoded prompt belongs to the n-th mark.
    for token_id in tokenizer.encode_runs(runs):
        if token_id != placeholder_id:
            token_ids.append(token_id)
            continue
        for media_index, frame in next(remaining).items:
            counts = media_tile_counts[media_index]
            length = counts[frame] * tokens_per_tile
            spans.append(MediaSpan(media_index, sum(counts[:frame]), counts[frame], len(token_ids), length))
            token_ids.extend([token_id] * length)
    return PromptIds(token_ids, spans)


def _check_places(marks: Sequence[MediaMark], media_tile_counts: Sequence[Sequence[int]]) -> None:
    places = sorted(source for mark in marks for source in mark.items)
    wanted = [(index, frame) for index, counts in enumerate(media_tile_counts) for frame in range(len(counts))]
    if places != wanted:
        raise ValueError(f"the messages hold {len(places)} media places, the request has media for {len(wanted)}")
