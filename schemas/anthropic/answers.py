"""What the gateway answers Anthropic's requests with. Structs, for the reason that schemas/openai/answers.py gives."""

from typing import Any

import msgspec


class Usage(msgspec.Struct, frozen=True):
    """Token counts. Those read from the prefix cache are not among `input_tokens`, as Anthropic counts."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0


class Text(msgspec.Struct, frozen=True, tag="text"):
    """What the model says."""

    text: str
    citations: None = None


class ToolUse(msgspec.Struct, frozen=True, tag="tool_use"):
    """A function that the model wants called."""

    id: str
    name: str
    input: dict[str, Any]


Block = Text | ToolUse


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, or the start of one."""

    id: str
    type: str = "message"
    role: str = "assistant"
    model: str
    content: tuple[Block, ...] = ()
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: Usage


class TokensCount(msgspec.Struct, frozen=True):
    """The answer of POST /v1/messages/count_tokens."""

    input_tokens: int
