"""PVC-InternVL2: requests as InternVL-Chat's, with pictures repeated in the prompt and clips encoded as a whole."""

import hashlib
from collections.abc import Sequence

from schemas.errors import ErrorCode, RequestError
from schemas.jobs import MediaOptions
from workers.families.base import Checkpoint
from workers.families.internvl import InternVLFamily
from workers.families.limits import invalid_option, within
from workers.media.types import ImageOptions, PreparedMedia, VideoOptions
from workers.models.pvc import Frames, parse_pvc
from workers.prompts.internvl import InternVLPrompts, configured_system_message
from workers.prompts.messages import ChatMessage, Video
from workers.prompts.placeholders import MediaSpan, PromptIds, SpanInput
from workers.tools.conversation import pick_writer

DEFAULT_NUM_FRAMES = 64
"""The model card's."""
MAX_NUM_FRAMES = 128
"""All frames of a clip are in the vision tower at once. The model was trained with 16 to 96."""


class PVCFamily:
    """One checkpoint's way from a request to a prompt; see `Family`."""

    strips_reply = True
    min_tokens = 0
    option_names: frozenset[str] = frozenset()

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Raises ModelError and TokenizerError."""
        config = checkpoint.config
        self._num_repeats = parse_pvc(config).num_image_repeats
        self._image_size = checkpoint.image_size
        self._tokens_per_tile = checkpoint.tokens_per_tile
        self._pictures = InternVLFamily(checkpoint)
        self._prompts = InternVLPrompts(
            checkpoint.tokenizer,
            str(config.get("template")),
            configured_system_message(config),
            checkpoint.tokens_per_tile,
        )
        self.stop_token_ids = frozenset(self._prompts.stop_token_ids)
        self.tool_writer = pick_writer(checkpoint.tokenizer, has_named_turns=True)

    def check_options(self, request: MediaOptions) -> None:
        """`data_flag`, as in the authors' call (1, 2: pictures; 3: a clip), beside InternVL-Chat's own option."""
        others = {name: value for name, value in request.family.items() if name != "data_flag"}
        self._pictures.check_options(MediaOptions(family=others))
        if request.family.get("data_flag") not in (None, 1, 2, 3):
            raise invalid_option("data_flag", "1, 2 or 3")

    def image_options(self, request: MediaOptions, detail: str) -> ImageOptions:
        """As InternVL-Chat."""
        return self._pictures.image_options(request, detail)

    def video_options(self, request: MediaOptions) -> VideoOptions:
        """One tile a frame. With `fps` alone, as many frames as that gives, up to the limit."""
        frames = DEFAULT_NUM_FRAMES if request.fps is None else MAX_NUM_FRAMES
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
        """Token ids with placeholders expanded, and each picture's or frame's place and input. Raises RequestError."""
        has_clip = any(isinstance(part, Video) for message in messages for part in message.parts)
        if has_clip and len(media) > 1:
            message = "This model takes pictures or a single clip in a conversation, not a clip beside other media."
            raise RequestError(ErrorCode.INVALID_VALUE, message, "messages")
        if media and request.family.get("data_flag") in ((1, 2) if has_clip else (3,)):
            raise invalid_option("data_flag", "3 for a clip and 1 or 2 for pictures")
        repeats = 1 if has_clip else self._num_repeats
        counts = [tuple(count * repeats for count in item.tile_counts) for item in media]
        is_combined = request.family.get("image_join") == "combined"
        prompt = self._prompts.build(messages, counts, add_generation_prompt, is_combined)
        inputs = [self._input(media[span.media_index], has_clip, repeats, span) for span in prompt.spans]
        return PromptIds(prompt.token_ids, prompt.spans, tuple(inputs))

    def _input(self, medium: PreparedMedia, is_clip: bool, repeats: int, span: MediaSpan) -> SpanInput:
        """A frame's embedding depends on the clip's other frames: all of them are one encoding, this its rows."""
        digest = hashlib.sha256(medium.digest + (b"clip" if is_clip else b"picture")).digest()
        num_encoded = len(medium.tiles) * repeats * self._tokens_per_tile
        offset = span.tile_start * self._tokens_per_tile
        return SpanInput(Frames(medium.tiles, is_clip), digest, offset, num_encoded)
