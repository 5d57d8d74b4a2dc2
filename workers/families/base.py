"""What a model family says about requests: how media are prepared and how a conversation becomes a prompt."""

from collections.abc import Sequence
from typing import Protocol

from schemas.jobs import MediaOptions
from workers.media.types import ImageOptions, PreparedMedia, VideoOptions
from workers.prompts.messages import ChatMessage
from workers.prompts.placeholders import PromptIds


class Family(Protocol):
    """One checkpoint's rules for turning a request into token ids and tiles."""

    stop_token_ids: frozenset[int]
    strips_reply: bool
    """Whether the reference drops white space around an answer."""

    def check_options(self, request: MediaOptions) -> None:
        """Raises RequestError when the request names an option of some other family, or a value that makes no sense."""
        ...

    def image_options(self, request: MediaOptions, detail: str) -> ImageOptions:
        """How to cut a picture into tiles. Raises RequestError when the request asks for more than is allowed."""
        ...

    def video_options(self, request: MediaOptions) -> VideoOptions:
        """Which frames of a clip to take. Raises RequestError when the request asks for more than is allowed."""
        ...

    def build_prompt(
        self,
        messages: Sequence[ChatMessage],
        media: Sequence[PreparedMedia],
        request: MediaOptions,
        add_generation_prompt: bool,
    ) -> PromptIds:
        """Token ids with placeholders expanded, and where each medium's tiles stand."""
        ...
