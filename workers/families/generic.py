"""Families that transformers knows: the checkpoint's own chat template, the library's processor for its media."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pictures
from torch import Tensor

from schemas.errors import ErrorCode, RequestError
from schemas.jobs import MediaOptions
from workers.families.library_clips import ClipMaker
from workers.families.library_processor import LibraryProcessor, Piece
from workers.media.types import FramesOptions, PictureOptions, PreparedMedia
from workers.models.base import ModelError
from workers.prompts.chat_template import MediaToken, TemplateError, render_template
from workers.prompts.messages import ChatMessage, Image, Video
from workers.prompts.placeholders import MediaSpan, PromptIds, SpanInput
from workers.tokenizers.base import Run, Tokenizer
from workers.tools.conversation import pick_writer

_OPTIONS = ("max_dynamic_patch", "min_dynamic_patch", "use_thumbnail", "fast_resize")
_DEFAULT_NUM_FRAMES = 8
_MAX_NUM_FRAMES = 512


class GridPositions(Protocol):
    """`GenericModel.grid_positions`."""

    def __call__(self, token_ids: Tensor, token_types: Tensor, inputs: Mapping[str, Tensor]) -> Tensor | None: ...


class GenericFamily:
    """One checkpoint's way from a request to a prompt; see `Family`."""

    strips_reply = False
    min_tokens = 0

    def __init__(
        self,
        processor: LibraryProcessor,
        tokenizer: Tokenizer,
        grid_positions: GridPositions,
        stop_token_ids: frozenset[int],
        make_clip: ClipMaker | None,
    ) -> None:
        """make_clip: None where clips are refused. Raises ModelError when the tokenizer lacks the image token."""
        self.processor = processor
        self.stop_token_ids = stop_token_ids
        self.tool_writer = pick_writer(tokenizer, has_named_turns=False)
        self._tokenizer = tokenizer
        self._grid_positions = grid_positions
        self._make_clip = make_clip
        self._token_ids = {token: tokenizer.token_id(token) for token in processor.media_tokens.values()}
        token = processor.media_tokens["image"]
        if self._token_ids[token] is None:
            raise ModelError(f"the tokenizer has no {token} token, by which the processor marks pictures")

    def check_options(self, request: MediaOptions) -> None:
        """Pictures are prepared as the checkpoint's processor is configured; nothing of that can be asked for."""
        asked = [*request.family, *(name for name in _OPTIONS if getattr(request, name) is not None)]
        for name in asked:
            raise RequestError(
                ErrorCode.UNKNOWN_PARAMETER, f"This model has no option '{name}'.", f"mm_processor_kwargs.{name}"
            )

    def image_options(self, request: MediaOptions, detail: str) -> PictureOptions:
        """The whole picture; `detail` changes nothing."""
        return PictureOptions(request.exif_transpose)

    def video_options(self, request: MediaOptions) -> FramesOptions:
        """Whole frames. Raises RequestError where the model takes no clips, or more frames are asked for than allowed.

        With `fps` alone, as many frames as that gives, up to the maximum.
        """
        if self._make_clip is None:
            raise RequestError(ErrorCode.INVALID_VALUE, "This model takes no videos on this server.", "messages")
        count = request.num_frames
        if count is None:
            count = _DEFAULT_NUM_FRAMES if request.fps is None else _MAX_NUM_FRAMES
        if not 1 <= count <= _MAX_NUM_FRAMES:
            message = f"num_frames is {count}; this server allows 1 to {_MAX_NUM_FRAMES}."
            raise RequestError(ErrorCode.INVALID_VALUE, message, "media_io_kwargs.video.num_frames")
        return FramesOptions(count, request.fps, request.start_s, request.end_s)

    def build_prompt(
        self,
        messages: Sequence[ChatMessage],
        media: Sequence[PreparedMedia],
        request: MediaOptions,
        add_generation_prompt: bool,
    ) -> PromptIds:
        """Token ids with placeholders expanded, and what the vision tower takes for each span of them."""
        items = self._render(messages, add_generation_prompt)
        try:
            placed = self._place(items, messages, media)
        except (ValueError, TypeError) as error:  # a picture too small or too thin for the processor's rules
            message = f"The media cannot be prepared for this model: {' '.join(str(error).split())[:200]}"
            raise RequestError(ErrorCode.INVALID_VALUE, message, "messages") from error
        token_ids, spans = self._encode(placed)
        pieces = [item for _, item in placed if isinstance(item, Piece)]
        return PromptIds(
            token_ids=token_ids,
            spans=spans,
            inputs=tuple(SpanInput(piece.inputs, _digest(piece.inputs)) for piece in pieces),
            grid_positions=self._grid(token_ids, pieces),
        )

    def _place(
        self, items: Sequence[Run | MediaToken], messages: Sequence[ChatMessage], media: Sequence[PreparedMedia]
    ) -> list[tuple[int, Run | Piece]]:
        """The items with pieces at their places, each with its medium's number. A template may set all pictures before
        all clips, but keeps the order within either."""
        parts = [part for message in messages for part in message.parts]
        clips = [part.index for part in parts if isinstance(part, Video)]
        pictures = [part.index for part in parts if isinstance(part, Image)]
        images = self.processor.images([Pictures.fromarray(media[index].tiles[0]) for index in pictures])
        waiting = {
            "image": [(index, [piece]) for index, piece in zip(pictures, images, strict=True)],
            "video": [(index, self._clip(media[index])) for index in clips],
        }
        placed: list[tuple[int, Run | Piece]] = []
        for item in items:
            if isinstance(item, Run):
                placed.append((-1, item))
            elif waiting[item.kind]:
                index, pieces = waiting[item.kind].pop(0)
                placed += [(index, piece) for piece in pieces]
            else:
                raise ValueError("the chat template names a medium that is not there")
        if waiting["image"] or waiting["video"]:
            raise ValueError("the chat template does not place every medium of these messages")
        return placed

    def _clip(self, medium: PreparedMedia) -> list[Piece]:
        assert self._make_clip is not None, "video_options has refused"
        times = medium.timestamps_s
        seconds = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1.0
        return self._make_clip(self.processor, medium.tiles, seconds)

    def _render(self, messages: Sequence[ChatMessage], add_generation_prompt: bool) -> list[Run | MediaToken]:
        try:
            return render_template(
                self.processor.apply_template, messages, self.processor.media_tokens, add_generation_prompt
            )
        except TemplateError as error:
            message = f"The model's chat template refuses these messages: {error}"
            raise RequestError(ErrorCode.INVALID_VALUE, message, "messages") from error

    def _encode(self, placed: Sequence[tuple[int, Run | Piece]]) -> tuple[list[int], list[MediaSpan]]:
        """The ids, and for each piece the placeholders that are its own: the next ones in the prompt."""
        runs = [item if isinstance(item, Run) else Run(item.text, True) for _, item in placed]
        token_ids = self._tokenizer.encode_runs(runs)
        if len(token_ids) > 1 and token_ids[0] == token_ids[1] == self._tokenizer.bos_token_id:
            del token_ids[0]  # the template wrote it, and the tokenizer put its own in front
        places = np.flatnonzero(np.isin(token_ids, self._placeholder_ids))
        spans: list[MediaSpan] = []
        first = 0
        for index, item in placed:
            if isinstance(item, Run):
                continue
            own = places[first : first + item.text.count(item.token)]
            if len(own) == 0 or own[-1] - own[0] != len(own) - 1:
                message = "The model sets the tokens of one picture apart, which this server does not support."
                raise RequestError(ErrorCode.INVALID_VALUE, message, "messages")
            spans.append(MediaSpan(index, 0, 1, int(own[0]), len(own)))
            first += len(own)
        return token_ids, spans

    def _grid(self, token_ids: list[int], pieces: Sequence[Piece]) -> NDArray[np.int64] | None:
        names = {name for piece in pieces for name in piece.inputs if not name.startswith("pixel_values")}
        inputs = {
            name: torch.cat([piece.inputs[name] for piece in pieces if name in piece.inputs]) for name in sorted(names)
        }
        ids = torch.tensor(token_ids)
        types = torch.zeros_like(ids)
        for kind, number in (("image", 1), ("video", 2)):
            token_id = self._token_ids.get(self.processor.media_tokens.get(kind, ""))
            if token_id is not None:
                types[ids == token_id] = number
        positions = self._grid_positions(ids, types, inputs)
        return None if positions is None else positions.cpu().numpy().astype(np.int64)

    @property
    def _placeholder_ids(self) -> list[int]:
        return [token_id for token_id in self._token_ids.values() if token_id is not None]


def _digest(inputs: Mapping[str, Tensor]) -> bytes:
    """sha256 over every entry with its name, type and shape."""
    digest = hashlib.sha256()
    for name in sorted(inputs):
        values = np.ascontiguousarray(inputs[name].numpy())
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.data)
    return digest.digest()
