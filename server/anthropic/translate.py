"""Anthropic's request as a chat: blocks become parts, parameters get the chat's names."""

import json
from collections.abc import Sequence
from typing import Any

from schemas.anthropic.blocks import (
    Block,
    ImageBlock,
    ResultBlock,
    Source,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    VideoBlock,
)
from schemas.anthropic.messages import CountTokensRequest, MessagesRequest, ToolChoice
from schemas.data_url import DataUrl
from schemas.openai.chat import ChatCompletionRequest
from server.chat_body import ChatBody, image_part, invalid, text_part, video_part
from server.param_names import ParamNames

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def to_chat(request: CountTokensRequest, passed_on: dict[str, Any], names: ParamNames) -> ChatCompletionRequest:
    """The chat that a request asks for. A last message of the assistant's is left open, to be continued.

    Raises RequestError in the client's names, which `names` then knows for what comes later.
    """
    body = ChatBody(names)
    if request.system:
        system = [text_part(block.text) for block in request.system]
        body.name_content(body.add_message({"role": "system", "content": system}, "system"), "system")
    for at, message in enumerate(request.messages):
        _add_message(body, names, message.role, message.content, f"messages.{at}")
    body.parameters.update(passed_on)
    if isinstance(request, MessagesRequest):
        body.set("max_tokens", request.max_tokens, "max_tokens")
        body.set("stop", request.stop_sequences, "stop_sequences")
    if request.messages[-1].role == "assistant":
        body.set("add_generation_prompt", False, "messages")
    if request.output_config is not None and request.output_config.format is not None:
        schema = {"name": "output", "schema": request.output_config.format.schema_, "strict": True}
        body.set("response_format", {"type": "json_schema", "json_schema": schema}, "output_config.format")
        names.add("response_format.json_schema", "output_config.format")
    _add_tools(body, names, request)
    return body.parsed()


def _add_message(body: ChatBody, names: ParamNames, role: str, blocks: Sequence[Block], name: str) -> None:
    """A turn; results of tools are turns of their own, in front of what else the user says."""
    rest = []
    for at, block in enumerate(blocks):
        if isinstance(block, ToolResultBlock) and role == "user":
            _add_result(body, names, block, f"{name}.content.{at}")
        else:
            rest.append((f"{name}.content.{at}", block))
    if not rest:
        return
    content: list[dict[str, Any]] = []
    message: dict[str, Any] = {"role": role, "content": content}
    path = body.add_message(message, name)
    body.name_content(path, f"{name}.content")
    names.add(f"{path}.tool_calls", f"{name}.content")
    calls: list[dict[str, Any]] = []
    for block_name, block in rest:
        match block:
            case ToolResultBlock():
                raise invalid(f"{block_name}.type", "results of tools stand in messages of the role 'user'")
            case ToolUseBlock():
                if role != "assistant":
                    raise invalid(f"{block_name}.type", "calls of tools stand in messages of the role 'assistant'")
                call_path = f"{path}.tool_calls.{len(calls)}"
                names.add(call_path, block_name)
                names.add(f"{call_path}.function", block_name)
                calls.append(_call(block))
            case TextBlock() | ImageBlock() | VideoBlock():
                part, leaf = _part(block, block_name)
                body.add_part(content, f"{path}.content", part, block_name, leaf)
    if calls:
        message["tool_calls"] = calls
        message["content"] = content or None


def _add_result(body: ChatBody, names: ParamNames, block: ToolResultBlock, name: str) -> None:
    content: list[dict[str, Any]] = []
    message = {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}
    path = body.add_message(message, name)
    for field in ("role", "tool_call_id"):
        names.add(f"{path}.{field}", f"{name}.tool_use_id")
    body.name_content(path, f"{name}.content")
    if block.is_error:
        content.append(text_part("Error: "))
    for at, result in enumerate(block.content or ()):
        part, leaf = _part(result, f"{name}.content.{at}")
        body.add_part(content, f"{path}.content", part, f"{name}.content.{at}", leaf)
    if not content:
        content.append(text_part(""))


def _part(block: ResultBlock, name: str) -> tuple[dict[str, Any], str]:
    """A part of a message, and which field of the client's holds its URL."""
    match block:
        case TextBlock():
            return text_part(block.text), "text"
        case ImageBlock():
            url, leaf = _url(block.source, f"{name}.source")
            return image_part(url, None), f"source.{leaf}"
        case VideoBlock():
            url, leaf = _url(block.source, f"{name}.source")
            return video_part(url), f"source.{leaf}"


def _url(source: Source, name: str) -> tuple[str | DataUrl, str]:
    for field in ("data", "media_type") if source.type == "base64" else ("url",):
        if getattr(source, field) is None:
            raise invalid(f"{name}.{field}", f"a source of the type '{source.type}' needs it")
    for field in ("url",) if source.type == "base64" else ("data", "media_type"):
        if getattr(source, field) is not None:
            raise invalid(f"{name}.{field}", f"a source of the type '{source.type}' has none")
    if source.type == "url":
        return source.url or "", "url"
    head = f"data:{source.media_type};base64,"
    return DataUrl(head, source.data.text) if isinstance(source.data, DataUrl) else f"{head}{source.data}", "data"


def _call(block: ToolUseBlock) -> dict[str, Any]:
    arguments = json.dumps(block.input, ensure_ascii=False)
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


def _add_tools(body: ChatBody, names: ParamNames, request: CountTokensRequest) -> None:
    if request.tools:
        tools = []
        for at, tool in enumerate(request.tools):
            names.add(f"tools.{at}.function", f"tools.{at}")
            names.add(f"tools.{at}.function.parameters", f"tools.{at}.input_schema")
            function = tool.model_dump(include={"name", "description", "strict"}, exclude_none=True)
            tools.append({"type": "function", "function": {**function, "parameters": tool.input_schema}})
        body.set("tools", tools, "tools")
    choice = request.tool_choice
    if choice is not None:
        body.set("tool_choice", _chat_choice(choice), "tool_choice")
        names.add("tool_choice.function", "tool_choice")
        if choice.disable_parallel_tool_use:
            body.set("parallel_tool_calls", False, "tool_choice.disable_parallel_tool_use")


def _chat_choice(choice: ToolChoice) -> str | dict[str, Any]:
    if (choice.type == "tool") != (choice.name is not None):
        raise invalid("tool_choice.name", "it goes with the type 'tool', and with no other")
    if choice.type == "tool":
        return {"type": "function", "function": {"name": choice.name}}
    return _CHOICES[choice.type]
