"""A Responses request as a chat: items become messages, parameters get the chat's names."""

from collections.abc import Sequence
from typing import Any

from schemas.openai.chat import ChatCompletionRequest
from schemas.openai.file_kinds import kind_of_type, kind_of_url, type_of_name
from schemas.openai.response_items import (
    FunctionCallItem,
    FunctionCallOutputItem,
    InputFile,
    InputImage,
    InputText,
    InputVideo,
    Item,
    MessageItem,
    OutputText,
    Part,
    Refusal,
)
from schemas.openai.responses import FunctionTool, ResponsesRequest, TextFormat
from server.chat_body import ChatBody, image_part, invalid, text_part, unsupported, video_part
from server.param_names import ParamNames

EARLIER = "previous_response_id"


def to_chat(
    request: ResponsesRequest, passed_on: dict[str, Any], earlier: Sequence[Item], names: ParamNames
) -> ChatCompletionRequest:
    """The chat that a request asks for, behind the items of the response that it goes on from.

    Raises RequestError in the client's names, which `names` then knows for what comes later.
    """
    body = ChatBody(names)
    names.add("messages", "input")
    if request.instructions is not None:
        body.add_message({"role": "system", "content": request.instructions}, "instructions")
    for item in earlier:
        _add_item(body, names, item, EARLIER, is_own=False)
    for at, item in enumerate(request.input):
        _add_item(body, names, item, f"input.{at}", is_own=True)
    body.parameters.update(passed_on)
    body.set("max_completion_tokens", request.max_output_tokens, "max_output_tokens")
    if request.wants_logprobs:
        body.set("logprobs", True, "include")
        body.set("top_logprobs", request.top_logprobs, "top_logprobs")
    if request.text is not None and request.text.format is not None:
        body.set("response_format", _chat_format(request.text.format), "text.format")
        names.add("response_format.json_schema", "text.format")
    _add_tools(body, names, request)
    return body.parsed()


def chat_tool(tool: FunctionTool) -> dict[str, Any]:
    """A function as a chat declares it."""
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}


def _add_item(body: ChatBody, names: ParamNames, item: Item, name: str, *, is_own: bool) -> None:
    match item:
        case MessageItem():
            content: list[dict[str, Any]] = []
            path = body.add_message({"role": item.role, "content": content}, name)
            _add_parts(body, content, path, item.content, f"{name}.content" if is_own else name, is_own)
        case FunctionCallItem():
            call = {
                "id": item.call_id,
                "type": "function",
                "function": {"name": item.name, "arguments": item.arguments},
            }
            last = body.messages[-1] if body.messages else {}
            if last.get("role") != "assistant":
                last = {"role": "assistant", "content": None}
                body.add_message(last, name)
            calls = last.setdefault("tool_calls", [])
            names.add(f"messages.{len(body.messages) - 1}.tool_calls", name)
            at = f"messages.{len(body.messages) - 1}.tool_calls.{len(calls)}"
            names.add(at, name)
            names.add(f"{at}.id", f"{name}.call_id" if is_own else name)
            names.add(f"{at}.function", name)
            calls.append(call)
        case FunctionCallOutputItem():
            content = []
            path = body.add_message({"role": "tool", "tool_call_id": item.call_id, "content": content}, name)
            for field in ("role", "tool_call_id"):
                names.add(f"{path}.{field}", f"{name}.call_id" if is_own else name)
            _add_parts(body, content, path, item.output, f"{name}.output" if is_own else name, is_own)


def _add_parts(
    body: ChatBody, content: list[dict[str, Any]], path: str, parts: Sequence[Part], name: str, is_own: bool
) -> None:
    """The parts of the message at `path`."""
    body.name_content(path, name)
    for at, part in enumerate(parts):
        part_name = f"{name}.{at}" if is_own else name
        chat_part, leaf = _chat_part(part, part_name)
        body.add_part(content, f"{path}.content", chat_part, part_name, leaf if is_own else "")


def _chat_part(part: Part, name: str) -> tuple[dict[str, Any], str]:
    """A part of a message, and which field of the client's holds it."""
    match part:
        case InputText() | OutputText():
            return text_part(part.text), "text"
        case Refusal():
            return text_part(part.refusal), "refusal"
        case InputImage():
            if part.file_id is not None:
                raise unsupported(f"{name}.file_id", "give 'image_url'")
            if part.image_url is None:
                raise invalid(name, "'image_url' is missing")
            return image_part(part.image_url, part.detail), "image_url"
        case InputVideo():
            return video_part(part.video_url), "video_url"
        case InputFile():
            return _file(part, name)


def _file(part: InputFile, name: str) -> tuple[dict[str, Any], str]:
    if part.file_id is not None:
        raise unsupported(f"{name}.file_id", "give 'file_url' or 'file_data'")
    if (part.file_url is None) == (part.file_data is None):
        raise invalid(name, "give either 'file_url' or 'file_data'")
    leaf = "file_url" if part.file_data is None else "file_data"
    url = part.file_url or part.file_data or ""
    named = type_of_name(part.filename) if part.filename else None
    if leaf == "file_data" and url[:5].lower() != "data:":
        if named is None:
            raise invalid(f"{name}.file_data", "neither it nor 'filename' says what kind of picture or clip it is")
        url = f"data:{named};base64,{url}"
    kind = kind_of_type(named) if named else kind_of_url(url)
    if kind is None:
        reason = "only pictures and clips are read, and neither it nor 'filename' says that it is one"
        raise invalid(f"{name}.{leaf}", reason)
    return (image_part(url, part.detail) if kind == "image" else video_part(url)), leaf


def _chat_format(wanted: TextFormat) -> dict[str, Any]:
    if wanted.type != "json_schema":
        return {"type": wanted.type}
    schema = wanted.model_dump(by_alias=True, exclude={"type"}, exclude_none=True)
    return {"type": "json_schema", "json_schema": schema}


def _add_tools(body: ChatBody, names: ParamNames, request: ResponsesRequest) -> None:
    if request.tools:
        body.set("tools", [chat_tool(tool) for tool in request.tools], "tools")
        for at in range(len(request.tools)):
            names.add(f"tools.{at}.function", f"tools.{at}")
    body.set("tool_choice", _chat_choice(names, "tool_choice", request.tool_choice), "tool_choice")
    body.set("parallel_tool_calls", request.parallel_tool_calls, "parallel_tool_calls")


def _chat_choice(names: ParamNames, path: str, choice: Any, own: str = "tool_choice") -> Any:
    """A choice, or one of the tools in it, with the object that a chat nests; checked as a chat's is.

    path: where it will be in the chat. own: where it is in the client's body.
    """
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind not in ("function", "allowed_tools"):
        return choice
    nested = {name: value for name, value in choice.items() if name != "type"}
    names.add(f"{path}.{kind}", own)
    if kind == "allowed_tools" and isinstance(nested.get("tools"), list):
        nested["tools"] = [
            _chat_choice(names, f"{path}.{kind}.tools.{at}", tool, f"{own}.tools.{at}")
            for at, tool in enumerate(nested["tools"])
        ]
    return {"type": kind, kind: nested}
