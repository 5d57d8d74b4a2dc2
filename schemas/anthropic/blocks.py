"""Content blocks of Anthropic's Messages API, and `video` blocks in the manner of its `image` ones."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from schemas.openai.content import MAX_PARTS, MediaUrl, Url
from schemas.openai.generation import Label
from schemas.openai.strict import StrictModel

ToolUseId = Annotated[str, Field(min_length=1, max_length=256)]


class CacheControl(StrictModel):
    """Accepted without effect: prefixes are cached without being asked."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(StrictModel):
    """A piece of text. Citations come back from clients and tell the model nothing."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: list[Any] | None = None


class Source(StrictModel):
    """Where a picture or clip is: `data` with its `media_type`, or `url`. Which, is checked where it is translated."""

    type: Literal["base64", "url"]
    media_type: Label | None = None
    data: MediaUrl | None = None
    url: Url | None = None


class ImageBlock(StrictModel):
    """A picture."""

    type: Literal["image"]
    source: Source
    cache_control: CacheControl | None = None


class VideoBlock(StrictModel):
    """A clip; an extension."""

    type: Literal["video"]
    source: Source
    cache_control: CacheControl | None = None


class ToolUseBlock(StrictModel):
    """A call that an earlier answer made."""

    type: Literal["tool_use"]
    id: ToolUseId
    name: Annotated[str, Field(min_length=1, max_length=256)]
    input: dict[str, Any]
    cache_control: CacheControl | None = None


def _blocks(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


ResultBlock = Annotated[TextBlock | ImageBlock | VideoBlock, Field(discriminator="type")]
ResultBlocks = Annotated[list[ResultBlock], Field(fail_fast=True, max_length=MAX_PARTS)]
ResultContent = Annotated[ResultBlocks, BeforeValidator(_blocks, json_schema_input_type=str | ResultBlocks)]


class ToolResultBlock(StrictModel):
    """What a call gave back."""

    type: Literal["tool_result"]
    tool_use_id: ToolUseId
    content: ResultContent | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


Block = Annotated[TextBlock | ImageBlock | VideoBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")]
Blocks = Annotated[list[Block], Field(fail_fast=True, min_length=1, max_length=MAX_PARTS)]
Content = Annotated[Blocks, BeforeValidator(_blocks, json_schema_input_type=str | Blocks)]
Texts = Annotated[list[TextBlock], Field(fail_fast=True, max_length=MAX_PARTS)]
System = Annotated[Texts, BeforeValidator(_blocks, json_schema_input_type=str | Texts)]
