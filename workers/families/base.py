"""What a model family says about requests: how media are prepared and how a conversation becomes a prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from schemas.jobs import MediaOptions
from workers.media.types import MediaOptions as FileOptions
from workers.media.types import PreparedMedia
from workers.models.config import Config
from workers.prompts.messages import ChatMessage
from workers.prompts.placeholders import PromptIds
from workers.tokenizers.base import Tokenizer
from workers.tools.writers import ToolWriter


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a family is opened with. name: as clients say it. options: the operator's, by name, in words."""

    config: Config
    tokenizer: Tokenizer
    image_size: int
    tokens_per_tile: int
    folder: Path | None = None
    name: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


class Family(Protocol):
    """One checkpoint's rules for turning a request into token ids and tiles."""

    stop_token_ids: frozenset[int]
    strips_reply: bool
    """Whether the reference drops white space around an answer."""
    min_tokens: int
    """How many tokens an answer has at least where neither the request nor the checkpoint says."""
    tool_writer: ToolWriter
    """How the model is told of tools. What it writes goes into the conversation before `build_prompt`."""

    def check_options(self, request: MediaOptions) -> None:
        """Raises RequestError when the request names an option of some other family, or a value that makes no sense."""
        ...

    def image_options(self, request: MediaOptions, detail: str) -> FileOptions:
        """How to cut a picture into tiles. Raises RequestError when the request asks for more than is allowed."""
        ...

    def video_options(self, request: MediaOptions) -> FileOptions:
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
