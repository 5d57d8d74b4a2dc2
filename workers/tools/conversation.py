"""A conversation with tools as one without: what there is of tools becomes parts and turns that any renderer knows."""

from collections.abc import Sequence

from schemas.jobs import Tool
from schemas.tool_forms import FORMS, INTERNLM2
from workers.prompts.messages import ChatMessage, Part
from workers.prompts.render import SYSTEM_ROLES
from workers.tokenizers.base import Tokenizer
from workers.tools.writers import HermesWriter, InternLM2Writer, JsonLinesWriter, Result, ToolWriter


def pick_writer(tokenizer: Tokenizer, has_named_turns: bool) -> ToolWriter:
    """The form that a model most likely knows, by the tokens that it has.

    has_named_turns: whether its prompts may have the turns of plugins and environments that InternLM2's form wants.
    """
    if has_named_turns and all(tokenizer.token_id(mark) is not None for mark in FORMS[INTERNLM2].marks):
        return InternLM2Writer()
    return HermesWriter() if tokenizer.token_id("<|im_start|>") is not None else JsonLinesWriter()


def write_tools(messages: Sequence[ChatMessage], tools: Sequence[Tool], writer: ToolWriter) -> list[ChatMessage]:
    """The conversation with tools, calls and results written out."""
    num_leading = next((i for i, m in enumerate(messages) if m.role not in SYSTEM_ROLES), len(messages))
    written = [*messages[:num_leading], *([writer.tools(tools)] if tools else [])]
    names: dict[str, str] = {}
    results: list[Result] = []
    for message in messages[num_leading:]:
        if message.role == "tool":
            results.append(Result(names.get(message.call_id, ""), message.parts))
            continue
        written += writer.results(results) if results else []
        results = []
        names |= {call.id: call.name for call in message.calls}
        written.append(_answer(message, writer) if message.calls else message)
    return written + (writer.results(results) if results else [])


def _answer(message: ChatMessage, writer: ToolWriter) -> ChatMessage:
    has_content = any(getattr(part, "text", "") for part in message.parts)
    parts: tuple[Part, ...] = (*message.parts, *writer.calls(message.calls, has_content))
    return ChatMessage(message.role, parts)
