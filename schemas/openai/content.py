"""Messages of a chat request: roles and content parts, as OpenAI's clients send them, plus `video_url`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, InstanceOf, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from schemas.data_url import DataUrl
from schemas.openai.strict import StrictModel
from schemas.openai.tools import CallId, MessageToolCalls

MAX_PARTS = 4096
Uuid = Annotated[str, Field(max_length=256)]
Url = Annotated[str, Field(min_length=1)]
MediaUrl = Url | SkipJsonSchema[InstanceOf[DataUrl]]
"""A URL, which the reader of the body may have left there."""


class CacheBreakpoint(StrictModel):
    """Accepted without effect: prefixes are cached without being asked."""

    mode: Literal["explicit"]
    ttl: Annotated[str, Field(max_length=1024)] | None = None


class TextPart(StrictModel):
    """A piece of text."""

    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class ImageUrl(StrictModel):
    """Where a picture is, and how closely to look at it; `original` looks as closely as `high` does."""

    url: MediaUrl
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(StrictModel):
    """A picture. `uuid` is the client's own label and has no effect."""

    type: Literal["image_url"]
    image_url: ImageUrl
    uuid: Uuid | None = None
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class VideoUrl(StrictModel):
    """Where a clip is."""

    url: MediaUrl


class VideoPart(StrictModel):
    """A clip. `uuid` is the client's own label and has no effect."""

    type: Literal["video_url"]
    video_url: VideoUrl
    uuid: Uuid | None = None


ContentPart = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


def _parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


ContentParts = Annotated[list[ContentPart], Field(fail_fast=True, min_length=1, max_length=MAX_PARTS)]
Content = Annotated[ContentParts, BeforeValidator(_parts, json_schema_input_type=str | ContentParts)]


Falsy = Annotated[Any, WithJsonSchema({"enum": [None, False, 0, "", [], {}]})]


class ChatMessage(StrictModel):
    """One turn. A plain string as content is read as one text part; an assistant's content may be null, and a refusal
    is read in its place. `name` has no effect: no template here knows of names.

    The last fields are what clients send back of an earlier answer; whether they can be served is decided where the
    job is made.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: Annotated[str, Field(max_length=256)] | None = None
    refusal: str | None = None
    annotations: Any = None
    audio: Falsy = None
    tool_call_id: CallId | None = None
    tool_calls: MessageToolCalls | None = None
    function_call: Falsy = None
