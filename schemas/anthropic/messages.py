"""The bodies of POST /v1/messages and /v1/messages/count_tokens: what differs from a chat's."""

from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.anthropic.blocks import CacheControl, Content, System
from schemas.openai.chat import MAX_MESSAGES
from schemas.openai.generation import Label, StopString, TokenCount
from schemas.openai.parameters import without_unsupported
from schemas.openai.strict import StrictModel, validate

_NOTHING: tuple[Any, ...] = (None, [], {}, "", False)

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "container": _NOTHING,
    "context_management": _NOTHING,
    "diagnostics": _NOTHING,
    "fallback_credit_token": _NOTHING,
    "inference_geo": _NOTHING,
    "mcp_servers": _NOTHING,
    "speed": (None, "standard"),
    "thinking": (None, {"type": "disabled"}),
    "user_profile_id": _NOTHING,
    "workspace_id": _NOTHING,
}
"""Parameter -> the values that ask for nothing."""

COUNTED = frozenset({"cache_salt", "media_io_kwargs", "mm_processor_kwargs", "model", "priority"})
PASSED_ON = COUNTED | {
    "bad_words", "frequency_penalty", "ignore_eos", "logit_bias", "min_p", "min_tokens", "presence_penalty",
    "repetition_penalty", "seed", "skip_special_tokens", "stop_token_ids", "structured_outputs", "temperature",
    "top_k", "top_p",
}  # fmt: skip
"""Parameters that mean what they mean in a chat; COUNTED: those that count_tokens takes as well."""


class Message(StrictModel):
    """One turn. A plain string as content is read as one text block."""

    role: Literal["user", "assistant", "system"]
    content: Content


class Metadata(StrictModel):
    """Changes nothing here."""

    user_id: Label | None = None


class OutputFormat(StrictModel):
    """A JSON schema that the text must conform to."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(StrictModel):
    """How the answer should be."""

    format: OutputFormat | None = None


class Tool(StrictModel):
    """A function that the model may call."""

    type: Literal["custom"] | None = None
    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None


class ToolChoice(StrictModel):
    """Whether the model may or must call tools, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class CountTokensRequest(StrictModel):
    """A conversation whose tokens are to be counted. Null always means: as if absent."""

    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    system: System | None = None
    cache_control: CacheControl | None = None
    output_config: OutputConfig | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=128)] | None = None
    tool_choice: ToolChoice | None = None


class MessagesRequest(CountTokensRequest):
    """A conversation to be answered, less what is passed on."""

    max_tokens: TokenCount
    stop_sequences: Annotated[list[StopString], Field(fail_fast=True, max_length=4)] | None = None
    stream: bool | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None


def parse_messages_request(body: object) -> tuple[MessagesRequest, dict[str, Any]]:
    """Decoded JSON as a request, and the parameters that a chat has as well, which are yet to be checked.

    Raises RequestError naming the field.
    """
    own, passed_on = _divided(body, PASSED_ON)
    return validate(MessagesRequest, own), passed_on


def parse_count_tokens_request(body: object) -> tuple[CountTokensRequest, dict[str, Any]]:
    """The same for a conversation that is only to be counted."""
    own, passed_on = _divided(body, COUNTED)
    return validate(CountTokensRequest, own), passed_on


def _divided(body: object, passed: frozenset[str]) -> tuple[object, dict[str, Any]]:
    """What is checked here, and what is left to the chat."""
    if not isinstance(body, dict):
        return body, {}
    supported = without_unsupported(body, table=UNSUPPORTED)
    own = {name: value for name, value in supported.items() if name not in passed}
    return own, {name: value for name, value in supported.items() if name in passed}
