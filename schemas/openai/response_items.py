"""The items of a Responses conversation: messages, calls of functions and what these gave back."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from schemas.openai.content import MAX_PARTS, CacheBreakpoint, Url
from schemas.openai.generation import Label
from schemas.openai.strict import StrictModel

Status = Literal["in_progress", "completed", "incomplete"]
CallId = Annotated[str, Field(min_length=1, max_length=256)]


class InputText(StrictModel):
    """A piece of text."""

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class InputImage(StrictModel):
    """A picture by URL. `original` looks as closely as `high` does."""

    type: Literal["input_image"]
    image_url: Url | None = None
    file_id: Label | None = None
    detail: Literal["auto", "low", "high", "original"] | None = None
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class InputVideo(StrictModel):
    """A clip by URL; an extension."""

    type: Literal["input_video"]
    video_url: Url


class InputFile(StrictModel):
    """A picture or clip by URL, or as base64. `filename` tells which; without it, URL or data must."""

    type: Literal["input_file"]
    file_url: Url | None = None
    file_data: Url | None = None
    file_id: Label | None = None
    filename: Label | None = None
    detail: Literal["auto", "low", "high"] | None = None
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class OutputText(StrictModel):
    """Text of an earlier answer. Annotations and log probabilities come back from clients and change nothing."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class Refusal(StrictModel):
    """An earlier answer's refusal; read as its text."""

    type: Literal["refusal"]
    refusal: str


Part = Annotated[InputText | InputImage | InputVideo | InputFile | OutputText | Refusal, Field(discriminator="type")]


def _parts(content: Any) -> Any:
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content


PartList = Annotated[list[Part], Field(fail_fast=True, max_length=MAX_PARTS)]
Parts = Annotated[PartList, BeforeValidator(_parts, json_schema_input_type=str | PartList)]


def _without_type(schema: dict[str, Any]) -> None:
    schema["required"].remove("type")


class MessageItem(StrictModel):
    """One turn. A plain string as content is read as one text part. Clients may leave `type` out, see `with_types`."""

    model_config = ConfigDict(json_schema_extra=_without_type)

    type: Literal["message"]
    role: Literal["user", "assistant", "system", "developer"]
    content: Parts
    id: Label | None = None
    status: Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class FunctionCallItem(StrictModel):
    """A call that an earlier answer made. `arguments` is JSON."""

    type: Literal["function_call"]
    call_id: CallId
    name: Annotated[str, Field(min_length=1, max_length=256)]
    arguments: str
    id: Label | None = None
    status: Status | None = None


class FunctionCallOutputItem(StrictModel):
    """What a call gave back."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: Parts
    id: Label | None = None
    status: Status | None = None


Item = Annotated[MessageItem | FunctionCallItem | FunctionCallOutputItem, Field(discriminator="type")]


def with_types(items: object) -> object:
    """`input` as a list of items that all say their type: a text is a user's message, and so is what has a role."""
    if isinstance(items, str):
        return [{"type": "message", "role": "user", "content": items}]
    if not isinstance(items, list):
        return items
    return [
        {"type": "message", **item} if isinstance(item, dict) and "role" in item and "type" not in item else item
        for item in items
    ]
