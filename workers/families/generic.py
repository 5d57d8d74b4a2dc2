"""Families that transformers knows: the checkpoint's own chat template, the library's processor for its pictures."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from schemas.errors import ErrorCode, RequestError
from schemas.jobs import MediaOptions
from workers.families.library_processor import LibraryProcessor, split_inputs
from workers.media.types import PictureOptions, PreparedMedia, VideoOptions
from workers.models.base import ModelError
from workers.prompts.chat_template import MediaToken, TemplateError, render_template
from workers.prompts.messages import ChatMessage
from workers.prompts.placeholders import MediaSpan, PromptIds, SpanInput
from workers.tokenizers.base import Run, Tokenizer

_OPTIONS = ("max_dynamic_patch", "min_dynamic_patch", "use_thumbnail")


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
    ) -> None:
        """Raises ModelError when the tokenizer does not know the processor's image token."""
        self.processor = processor
        self.stop_token_ids = stop_token_ids
        self._tokenizer = tokenizer
        self._grid_positions = grid_positions
        token = processor.media_tokens["image"]
        image_id = tokenizer.token_id(token)
        if image_id is None:
            raise ModelError(f"the tokenizer has no {token} token, by which the processor marks pictures")
        self._image_id = image_id

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

    def video_options(self, request: MediaOptions) -> VideoOptions:
        """Clips need a processor that this installation does not have. Raises RequestError."""
        raise RequestError(ErrorCode.INVALID_VALUE, "This model takes no videos on this server.", "messages")

    def build_prompt(
        self,
        messages: Sequence[ChatMessage],
        media: Sequence[PreparedMedia],
        request: MediaOptions,
        add_generation_prompt: bool,
    ) -> PromptIds:
        """Token ids with placeholders expanded, and what the vision tower takes for each picture."""
        inputs, replacements = self._process(media)
        token_ids, spans = self._expand(self._render(messages, add_generation_prompt, len(media)), replacements)
        own = split_inputs(inputs, len(media)) if media else []
        ids = torch.tensor(token_ids)
        grid = self._grid_positions(ids, (ids == self._image_id).long(), inputs)
        return PromptIds(
            token_ids=token_ids,
            spans=spans,
            inputs=tuple(SpanInput(data, _digest(data)) for data in own),
            grid_positions=None if grid is None else _as_int64(grid),
        )

    def _process(self, media: Sequence[PreparedMedia]) -> tuple[Mapping[str, Tensor], list[str]]:
        if not media:
            return {}, []
        try:
            return self.processor.images([Image.fromarray(item.tiles[0]) for item in media])
        except (ValueError, TypeError) as error:  # a picture too small or too thin for the processor's rules
            message = f"A picture cannot be prepared for this model: {' '.join(str(error).split())[:200]}"
            raise RequestError(ErrorCode.INVALID_VALUE, message, "messages") from error

    def _render(
        self, messages: Sequence[ChatMessage], add_generation_prompt: bool, num_media: int
    ) -> list[Run | MediaToken]:
        try:
            items = render_template(
                self.processor.apply_template, messages, self.processor.media_tokens, add_generation_prompt
            )
        except TemplateError as error:
            message = f"The model's chat template refuses these messages: {error}"
            raise RequestError(ErrorCode.INVALID_VALUE, message, "messages") from error
        if sum(isinstance(item, MediaToken) for item in items) != num_media:
            message = "The model's chat template does not place every picture of these messages."
            raise RequestError(ErrorCode.INVALID_VALUE, message, "messages")
        return items

    def _expand(
        self, items: Sequence[Run | MediaToken], replacements: Sequence[str]
    ) -> tuple[list[int], list[MediaSpan]]:
        """The items' ids; the n-th picture's placeholders are the next ones, as many as its replacement names."""
        texts = iter(replacements)
        runs = [item if isinstance(item, Run) else Run(next(texts), True) for item in items]
        token_ids = self._tokenizer.encode_runs(runs)
        if len(token_ids) > 1 and token_ids[0] == token_ids[1] == self._tokenizer.bos_token_id:
            del token_ids[0]  # the template wrote it, and the tokenizer put its own in front
        places = np.flatnonzero(np.asarray(token_ids) == self._image_id)
        spans: list[MediaSpan] = []
        first = 0
        for index, text in enumerate(replacements):
            own = places[first : first + text.count(self.processor.media_tokens["image"])]
            if len(own) == 0 or own[-1] - own[0] != len(own) - 1:
                raise ModelError("the processor sets the tokens of one picture apart, which is not supported")
            spans.append(MediaSpan(index, 0, 1, int(own[0]), len(own)))
            first += len(own)
        return token_ids, spans


def _digest(inputs: Mapping[str, Tensor]) -> bytes:
    """sha256 over every entry with its name, type and shape."""
    digest = hashlib.sha256()
    for name in sorted(inputs):
        values = np.ascontiguousarray(inputs[name].numpy())
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.data)
    return digest.digest()


def _as_int64(positions: Tensor) -> NDArray[np.int64]:
    return positions.cpu().numpy().astype(np.int64)
