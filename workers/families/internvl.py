"""InternVL-Chat: tiles for pictures, one tile a frame for clips, the conversation templates of its config.json."""

from collections.abc import Sequence

from schemas.errors import ErrorCode, RequestError
from schemas.jobs import MediaOptions
from workers.families.base import Checkpoint
from workers.families.limits import within
from workers.media.types import ImageOptions, PreparedMedia, VideoOptions
from workers.prompts.internvl import InternVLPrompts, configured_system_message
from workers.prompts.messages import ChatMessage
from workers.prompts.placeholders import PromptIds
from workers.tools.conversation import pick_writer

DEFAULT_NUM_FRAMES = 8
"""As the model cards sample a clip when nothing else is asked for."""
MAX_NUM_FRAMES = 512


class InternVLFamily:
    """One InternVL-Chat checkpoint's way from a request to a prompt; see `Family`."""

    strips_reply = True
    min_tokens = 0
    option_names: frozenset[str] = frozenset()

    def __init__(self, checkpoint: Checkpoint) -> None:
        config = checkpoint.config
        self._image_size = checkpoint.image_size
        self._max_tiles = int(config.get("max_dynamic_patch", 12)) if config.get("dynamic_image_size") else 1
        self._min_tiles = min(int(config.get("min_dynamic_patch", 1)), self._max_tiles)
        self._use_thumbnail = bool(config.get("use_thumbnail", False))
        self._prompts = InternVLPrompts(
            checkpoint.tokenizer,
            str(config.get("template")),
            configured_system_message(config),
            checkpoint.tokens_per_tile,
        )
        self.stop_token_ids = frozenset(self._prompts.stop_token_ids)
        self.tool_writer = pick_writer(checkpoint.tokenizer, has_named_turns=True)

    def check_options(self, request: MediaOptions) -> None:
        """`image_join: combined` (V1-5's way: all pictures in one span) or `separate` is the family's own option."""
        for name, value in request.family.items():
            if name != "image_join":
                raise RequestError(
                    ErrorCode.UNKNOWN_PARAMETER, f"This model has no option '{name}'.", f"mm_processor_kwargs.{name}"
                )
            if value not in ("combined", "separate"):
                raise RequestError(
                    ErrorCode.INVALID_VALUE,
                    "image_join must be 'combined' or 'separate'.",
                    "mm_processor_kwargs.image_join",
                )

    def image_options(self, request: MediaOptions, detail: str) -> ImageOptions:
        """`detail: low` is one tile; else the server's maximum unless the request asks for fewer."""
        most = within("mm_processor_kwargs.max_dynamic_patch", request.max_dynamic_patch, self._max_tiles)
        most = 1 if detail == "low" else most
        least = request.min_dynamic_patch or min(self._min_tiles, most)
        if not 1 <= least <= most:
            raise RequestError(
                ErrorCode.INVALID_VALUE,
                f"min_dynamic_patch is {least}; it must be between 1 and max_dynamic_patch, here {most}.",
                "mm_processor_kwargs.min_dynamic_patch",
            )
        use_thumbnail = self._use_thumbnail if request.use_thumbnail is None else request.use_thumbnail
        return ImageOptions(self._image_size, least, most, use_thumbnail, request.exif_transpose, request.fast_resize)

    def video_options(self, request: MediaOptions) -> VideoOptions:
        """One tile a frame. With `fps` alone, as many frames as that gives, up to the server's maximum."""
        default = DEFAULT_NUM_FRAMES if request.fps is None else MAX_NUM_FRAMES
        frames = default
        if request.num_frames is not None:
            frames = within("media_io_kwargs.video.num_frames", request.num_frames, MAX_NUM_FRAMES)
        return VideoOptions(self._image_size, frames, request.fps, request.start_s, request.end_s, request.fast_resize)

    def build_prompt(
        self,
        messages: Sequence[ChatMessage],
        media: Sequence[PreparedMedia],
        request: MediaOptions,
        add_generation_prompt: bool,
    ) -> PromptIds:
        """Token ids with placeholders expanded, and where each medium's tiles stand."""
        tile_counts = [item.tile_counts for item in media]
        is_combined = request.family.get("image_join") == "combined"
        return self._prompts.build(messages, tile_counts, add_generation_prompt, is_combined)
