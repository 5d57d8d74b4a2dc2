"""The body of POST /v1/responses: what differs from a chat's. The rest is a chat's own and is checked as such."""

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from schemas.errors import ErrorCode, RequestError
from schemas.openai.chat import MAX_MESSAGES
from schemas.openai.files import ListQuery
from schemas.openai.generation import Label, TokenCount, conflict
from schemas.openai.parameters import without_unsupported
from schemas.openai.response_items import Item, with_types
from schemas.openai.strict import StrictModel, printable, validate

LOGPROBS = "message.output_text.logprobs"
_NOTHING: tuple[Any, ...] = (None, [], {}, "", False)

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "access_programs": _NOTHING,
    "context_management": _NOTHING,
    "conversation": _NOTHING,
    "image": _NOTHING,
    "moderation": _NOTHING,
    "prompt": _NOTHING,
    "prompt_cache_options": _NOTHING,
    "reasoning": (None, {}, {"effort": None}, {"effort": "none"}),
    "truncation": (None, "disabled"),
}
"""Parameter -> the values that ask for nothing."""

PASSED_ON = frozenset(
    {
        "bad_words", "cache_salt", "frequency_penalty", "ignore_eos", "include_stop_str_in_output", "logit_bias",
        "media_io_kwargs", "min_p", "min_tokens", "mm_processor_kwargs", "model", "presence_penalty", "priority",
        "prompt_cache_key", "prompt_cache_retention", "repetition_penalty", "safety_identifier", "seed",
        "service_tier", "skip_special_tokens", "stop", "stop_token_ids", "structured_outputs", "temperature", "top_k",
        "top_p", "user",
    }
)  # fmt: skip
"""Parameters that mean what they mean in a chat."""

COUNTED = frozenset(
    {
        "cache_salt", "input", "instructions", "media_io_kwargs", "mm_processor_kwargs", "model", "parallel_tool_calls",
        "previous_response_id", "priority", "text", "tool_choice", "tools",
    }
)  # fmt: skip
"""Parameters that a count of the input's tokens takes."""


class TextFormat(StrictModel):
    """What the text must conform to."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(StrictModel):
    """How the text should be."""

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class StreamOptions(StrictModel):
    """Accepted without effect."""

    include_obfuscation: bool | None = None


class FunctionTool(StrictModel):
    """A function that the model may call."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


_NAMED = _object({"type": {"const": "function"}, "name": {"type": "string"}})
_ALLOWED = _object(
    {
        "type": {"const": "allowed_tools"},
        "mode": {"enum": ["auto", "required"]},
        "tools": {"type": "array", "items": _NAMED, "minItems": 1, "maxItems": 128},
    }
)
ToolChoice = Annotated[Any, WithJsonSchema({"anyOf": [{"enum": [None, "none", "auto", "required"]}, _NAMED, _ALLOWED]})]
"""Read as a chat's, once it has a chat's form."""


class ResponsesRequest(StrictModel):
    """A request, less what is passed on. Null always means: as if absent."""

    input: Annotated[list[Item], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    instructions: str | None = None
    previous_response_id: Label | None = None
    max_output_tokens: TokenCount | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None
    """Counts calls of built-in tools, of which there are none here."""
    text: TextOptions | None = None
    include: Annotated[list[Literal["message.output_text.logprobs"]], Field(max_length=16)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[FunctionTool], Field(fail_fast=True, max_length=128)] | None = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = None

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer should carry log probabilities."""
        return LOGPROBS in (self.include or ())


class RetrieveQuery(StrictModel):
    """GET /v1/responses/{response_id}: of one of the background, its stream's events behind `starting_after`."""

    stream: bool = False
    starting_after: Annotated[int, Field(ge=0)] | None = None


class ItemsQuery(ListQuery):
    """GET /v1/responses/{response_id}/input_items: newest first, unless `order` says otherwise."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"


def parse_responses_request(body: object) -> tuple[ResponsesRequest, dict[str, Any]]:
    """Decoded JSON as a request whose own fields agree with each other, and the parameters that a chat has as well,
    which are yet to be checked. Raises RequestError naming the field."""
    own, passed_on = _divided(body) if isinstance(body, dict) else (body, {})
    request = validate(ResponsesRequest, own)
    if request.top_logprobs and not request.wants_logprobs:
        raise conflict("top_logprobs", f"it needs '{LOGPROBS}' in 'include'")
    if request.stream_options is not None and not request.stream:
        raise conflict("stream_options", "it needs 'stream' to be true")
    if request.background and request.store is False:
        raise conflict("background", "it needs 'store', as its answer is had later")
    _check_format(request.text.format if request.text else None)
    return request, passed_on


def parse_input_tokens_request(body: object) -> tuple[ResponsesRequest, dict[str, Any]]:
    """The same for an input whose tokens are only to be counted."""
    for name in body if isinstance(body, dict) else ():
        if name not in COUNTED and name not in UNSUPPORTED:
            shown = printable(name)
            raise RequestError(ErrorCode.UNKNOWN_PARAMETER, f"Unknown parameter: '{shown}'.", shown)
    return parse_responses_request(body)


def _divided(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is checked here, and what is left to the chat."""
    supported = without_unsupported(body, table=UNSUPPORTED)
    own = {name: value for name, value in supported.items() if name not in PASSED_ON}
    if "input" in own:
        own["input"] = with_types(own["input"])
    return own, {name: value for name, value in supported.items() if name in PASSED_ON}


def _check_format(wanted: TextFormat | None) -> None:
    if wanted is None:
        return
    given = wanted.model_dump(by_alias=True, exclude_none=True).keys() - {"type"}
    if wanted.type != "json_schema":
        for name in given:
            param = f"text.format.{name}"
            raise RequestError(ErrorCode.UNKNOWN_PARAMETER, f"Unknown parameter: '{param}'.", param)
        return
    for name in {"name", "schema"} - given:
        param = f"text.format.{name}"
        raise RequestError(ErrorCode.MISSING_PARAMETER, f"Missing required parameter: '{param}'.", param)
