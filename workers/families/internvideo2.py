"""InternVideo2-Chat: views of one picture or clip, a prompt in pieces, an instruction that the Q-Former may read."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from schemas.errors import ErrorCode, RequestError
from schemas.jobs import MediaOptions
from workers.families.base import Checkpoint
from workers.families.internvideo2_options import MAX_SQUARES, Grid, parse_options
from workers.families.limits import within
from workers.media.types import ImageViewsOptions, PreparedMedia, VideoOptions, VideoViewsOptions, ViewCut
from workers.models.base import ModelError
from workers.models.internvideo2 import View
from workers.models.internvideo2_config import BERT_FOLDER, parse_internvideo2
from workers.prompts.internvideo2 import InternVideo2Prompts, Medium, frame_note, render
from workers.prompts.messages import ChatMessage, Video
from workers.prompts.placeholders import MediaSpan, PromptIds, SpanInput
from workers.tokenizers.wordpiece import WordPieceTokenizer, load_wordpiece
from workers.tools.conversation import pick_writer

MAX_NUM_FRAMES = 64
_HD_NAME = re.compile(r"(?<![a-z])hd(?![a-z])", re.IGNORECASE)


class InternVideo2Family:
    """One checkpoint's way from a request to a prompt; see `Family`. HD and not differ in this alone."""

    strips_reply = False
    # The reference forbids an end as the first token.
    min_tokens = 1
    option_names = frozenset({"hd"})

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Raises ModelError and TokenizerError."""
        spec = parse_internvideo2(checkpoint.config)
        self._is_hd = _is_hd(checkpoint)
        self._num_frames = spec.num_frames
        self._image_size = checkpoint.image_size
        self._tokens_per_view = checkpoint.tokens_per_tile
        self._max_text_tokens = spec.qformer.num_positions
        self._wordpiece = _load_vocabulary(checkpoint.folder) if self._is_hd else None
        self._prompts = InternVideo2Prompts(checkpoint.tokenizer, checkpoint.tokens_per_tile)
        self.stop_token_ids = self._prompts.stop_token_ids
        self.tool_writer = pick_writer(checkpoint.tokenizer, has_named_turns=False)

    def check_options(self, request: MediaOptions) -> None:
        """`hd_num`, `padding` and `fix_ratio` are for HD; `instruction` and `use_frame_msg` for both."""
        if request.fast_resize:
            param = "mm_processor_kwargs.fast_resize"
            raise RequestError(ErrorCode.UNKNOWN_PARAMETER, "This model has no option 'fast_resize'.", param)
        options = parse_options(request.family, self._is_hd)
        if options.instruction and self._is_hd and self._wordpiece is None:
            raise RequestError(
                ErrorCode.UNSUPPORTED_PARAMETER,
                f"This server has no {BERT_FOLDER}/vocab.txt, without which the model cannot read an instruction.",
                "mm_processor_kwargs.instruction",
            )

    def image_options(self, request: MediaOptions, detail: str) -> ImageViewsOptions:
        """The grid nearest to the picture's aspect; `detail: low` is one square and the whole."""
        cut = self._cut(request, parse_options(request.family, self._is_hd).image_grid)
        return ImageViewsOptions(replace(cut, max_squares=1) if detail == "low" else cut, request.exif_transpose)

    def video_options(self, request: MediaOptions) -> VideoViewsOptions:
        """Two squares side by side and the whole. With `fps` alone, as many frames as that gives, up to the limit."""
        frames = self._num_frames if request.fps is None else MAX_NUM_FRAMES
        if request.num_frames is not None:
            frames = within("media_io_kwargs.video.num_frames", request.num_frames, MAX_NUM_FRAMES)
        sampling = VideoOptions(self._image_size, frames, request.fps, request.start_s, request.end_s)
        return VideoViewsOptions(self._cut(request, parse_options(request.family, self._is_hd).video_grid), sampling)

    def build_prompt(
        self,
        messages: Sequence[ChatMessage],
        media: Sequence[PreparedMedia],
        request: MediaOptions,
        add_generation_prompt: bool,
    ) -> PromptIds:
        """Token ids with placeholders expanded, and each view's place and input. Raises RequestError."""
        if len(media) > 1:
            raise RequestError(
                ErrorCode.INVALID_VALUE,
                f"This model takes one picture or clip in a conversation; the messages have {len(media)}.",
                "messages",
            )
        options = parse_options(request.family, self._is_hd)
        medium = _describe(messages, media[0], options.has_frame_note) if media else None
        pieces = render(messages, medium, options.instruction, add_generation_prompt)
        token_ids, starts = self._prompts.encode(pieces)
        if not media:
            return PromptIds(token_ids, [])
        text_ids: tuple[int, ...] = ()
        if options.instruction and self._wordpiece is not None:
            text_ids = self._wordpiece.encode(options.instruction, self._max_text_tokens)
        spans = [MediaSpan(0, view, 1, start, self._tokens_per_view) for view, start in enumerate(starts)]
        return PromptIds(token_ids, spans, tuple(_input(media[0], view, text_ids) for view in range(len(starts))))

    def _cut(self, request: MediaOptions, grid: Grid | None) -> ViewCut:
        if not self._is_hd:
            return ViewCut(self._image_size)
        options = parse_options(request.family, self._is_hd)
        squares = options.max_squares
        if request.max_dynamic_patch is not None:
            squares = min(
                squares, within("mm_processor_kwargs.max_dynamic_patch", request.max_dynamic_patch, MAX_SQUARES)
            )
        if options.is_padded:
            return ViewCut(self._image_size, is_hd=True, max_squares=squares, is_padded=True)
        columns, rows = grid or (0, 0)
        return ViewCut(self._image_size, is_hd=True, max_squares=squares, columns=columns, rows=rows)


def _is_hd(checkpoint: Checkpoint) -> bool:
    """The operator's word; else what the served name and the folder (or the one it lies in) call themselves."""
    said = checkpoint.options.get("hd")
    if said is not None:
        if said.lower() not in ("true", "false"):
            raise ModelError(f"--model-option hd={said}: it must be true or false")
        return said.lower() == "true"
    folder = checkpoint.folder.resolve() if checkpoint.folder else Path()
    return any(_HD_NAME.search(name) for name in (checkpoint.name, folder.name, folder.parent.name))


def _load_vocabulary(folder: Path | None) -> WordPieceTokenizer | None:
    path = folder / BERT_FOLDER / "vocab.txt" if folder else None
    return load_wordpiece(path) if path and path.is_file() else None


def _describe(messages: Sequence[ChatMessage], medium: PreparedMedia, has_frame_note: bool) -> Medium:
    is_video = any(isinstance(part, Video) for message in messages for part in message.parts)
    note = frame_note(medium.timestamps_s) if is_video and has_frame_note else ""
    return Medium(is_video, len(medium.tiles), note)


def _input(medium: PreparedMedia, view: int, text_ids: tuple[int, ...]) -> SpanInput:
    described = repr((view, text_ids)).encode()
    return SpanInput(View(medium.tiles[view], text_ids), hashlib.sha256(medium.digest + described).digest())
