"""A response as it stands in the answer, before anything is said, and as the store keeps it once it has ended."""

import secrets
from collections.abc import Sequence
from typing import Any

from schemas.jobs import ChatJob
from schemas.openai import response_items
from schemas.openai.chat import ChatCompletionRequest
from schemas.openai.response_answers import OutputFunctionCall, OutputItem, OutputMessage, Response
from schemas.openai.response_items import FunctionCallItem, FunctionCallOutputItem, Item, MessageItem, Part
from schemas.openai.responses import ResponsesRequest
from server.responses.store import StoredResponse

PART_BYTES = 1024
"""What an item or a part takes beside its text, at most about."""
_ID_PREFIXES = {"message": "msg_", "function_call": "fc_", "function_call_output": "fco_"}


def begun(request: ResponsesRequest, chat: ChatCompletionRequest, job: ChatJob) -> Response:
    """The response of a job that has yet to say something."""
    text = request.text.format if request.text else None
    choice = request.tool_choice
    return Response(
        id=f"resp_{job.job_id}",
        status="queued" if request.background else "in_progress",
        background=bool(request.background),
        created_at=job.created,
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        model=job.model,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        previous_response_id=request.previous_response_id,
        prompt_cache_key=chat.prompt_cache_key,
        safety_identifier=chat.safety_identifier,
        store=is_stored(request),
        temperature=chat.temperature,
        text={
            "format": text.model_dump(by_alias=True, exclude_none=True) if text else {"type": "text"},
            "verbosity": "medium",
        },
        tool_choice="auto" if choice is None else choice,
        tools=[tool.model_dump() for tool in request.tools or ()],
        top_logprobs=request.top_logprobs or 0,
        top_p=chat.top_p,
        user=chat.user,
        metadata=request.metadata or {},
    )


def is_stored(request: ResponsesRequest) -> bool:
    """Whether the client lets its response be kept."""
    return request.store is not False


def size_of_input(given: Sequence[Item], earlier: StoredResponse | None, body_bytes: int) -> int:
    """What a conversation takes before anything is said: its own items, which came in a body of `body_bytes`, behind
    the earlier ones."""
    return body_bytes + sum(map(_size_bytes, given)) + (earlier.size_bytes if earlier else 0)


def stored(
    response: Response, given: Sequence[Item], earlier: StoredResponse | None, body_bytes: int
) -> StoredResponse:
    """A response that has ended, with the conversation it leaves behind.

    given: its own input, which came in a body of `body_bytes`.
    """
    said = [_said(item) for item in response.output]
    return StoredResponse(
        response=response,
        items=(*(earlier.items if earlier else ()), *given, *said),
        given=[_listed(item) for item in given],
        size_bytes=size_of_input(given, earlier, body_bytes) + sum(map(_size_bytes, said)),
    )


def _said(item: OutputItem) -> Item:
    match item:
        case OutputMessage():
            parts: list[Part] = [response_items.OutputText(type="output_text", text=part.text) for part in item.content]
            return MessageItem(type="message", role="assistant", content=parts, id=item.id)
        case OutputFunctionCall():
            return FunctionCallItem(
                type="function_call", call_id=item.call_id, name=item.name, arguments=item.arguments, id=item.id
            )


def _size_bytes(item: Item) -> int:
    """What an item takes, its input's text apart, which counts with the body."""
    match item:
        case MessageItem():
            said = sum(len(part.text) for part in item.content if isinstance(part, response_items.OutputText))
            return said + PART_BYTES * (1 + len(item.content))
        case FunctionCallOutputItem():
            return PART_BYTES * (1 + len(item.output))
        case FunctionCallItem():
            return PART_BYTES + len(item.arguments)


def _listed(item: Item) -> dict[str, Any]:
    """An item as GET .../input_items shows it."""
    shown = item.model_dump(exclude_none=True)
    shown.setdefault("id", _ID_PREFIXES[item.type] + secrets.token_hex(16))
    if not isinstance(item, FunctionCallOutputItem):
        shown.setdefault("status", "completed")
    for part in shown.get("content", ()):
        if part["type"] == "input_image":
            part.setdefault("detail", "auto")
        elif part["type"] != "refusal" and shown["role"] == "assistant":
            part["type"] = "output_text"
            part.setdefault("annotations", [])
    return shown
