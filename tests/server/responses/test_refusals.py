"""What the Responses API refuses, and by which name."""

from typing import Any

import pytest

from tests.fakes.memory_queue import MemoryQueue, tell
from tests.server.serving import client_of

PATH = "/v1/responses"
USER: dict[str, Any] = {"role": "user", "content": "hello"}
TOOL: dict[str, Any] = {"type": "function", "name": "f", "parameters": {"type": "object"}}
ALLOWED: dict[str, Any] = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}


async def refusal_of(**request: Any) -> tuple[int, str, str | None]:
    queue = MemoryQueue(tell("x"))
    async with client_of(queue) as client:
        reply = await client.post(PATH, json={"model": "demo", "input": "hello", **request})
    assert not queue.submitted, reply.text
    error = reply.json()["error"]
    return reply.status_code, error["code"], error["param"]


def part(**fields: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": [fields]}]}


@pytest.mark.parametrize(
    ("request_body", "code", "param"),
    [
        ({"input": []}, "invalid_value", "input"),
        ({"input": 5}, "invalid_type", "input"),
        ({"input": None}, "invalid_type", "input"),
        ({"input": ""}, "invalid_value", "input.0.content"),
        ({"input": [{"role": "user"}]}, "missing_required_parameter", "input.0.content"),
        ({"input": [{"role": "critic", "content": "x"}]}, "invalid_value", "input.0.role"),
        ({"input": [{"content": "x"}]}, "invalid_value", "input.0.type"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "invalid_value", "input.0.type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "invalid_value", "input.0.type"),
        ({"input": [USER, {**USER, "name": "x"}]}, "unknown_parameter", "input.1.name"),
        ({"input": [USER] * 1025}, "invalid_value", "input"),
        (part(type="input_text"), "missing_required_parameter", "input.0.content.0.text"),
        (part(type="input_audio", data="x"), "invalid_value", "input.0.content.0.type"),
        (part(type="input_image"), "invalid_value", "input.0.content.0"),
        (part(type="input_image", file_id="x"), "unsupported_parameter", "input.0.content.0.file_id"),
        (part(type="input_image", image_url={"url": "x"}), "invalid_type", "input.0.content.0.image_url"),
        (part(type="input_image", image_url="x", detail="most"), "invalid_value", "input.0.content.0.detail"),
        (part(type="input_file"), "invalid_value", "input.0.content.0"),
        (part(type="input_file", file_url="x", file_data="y"), "invalid_value", "input.0.content.0"),
        (part(type="input_file", file_id="x"), "unsupported_parameter", "input.0.content.0.file_id"),
        (part(type="input_file", file_url="http://x/a.pdf"), "invalid_value", "input.0.content.0.file_url"),
        (part(type="input_file", file_url="http://[x"), "invalid_value", "input.0.content.0.file_url"),
        (part(type="input_file", file_data="AAAA"), "invalid_value", "input.0.content.0.file_data"),
        (
            part(type="input_file", file_data="data:application/pdf;base64,AA"),
            "invalid_value",
            "input.0.content.0.file_data",
        ),
        (
            {"input": [{"role": "system", "content": [{"type": "input_image", "image_url": "http://x/"}]}]},
            "invalid_value",
            "input.0.content.0.image_url",
        ),
        ({"model": "nope"}, "model_not_found", "model"),
        ({"model": None}, "invalid_type", "model"),
        ({"background": True, "store": False}, "invalid_value", "background"),
        ({"conversation": "conv_1"}, "unsupported_parameter", "conversation"),
        ({"prompt": {"id": "x"}}, "unsupported_parameter", "prompt"),
        ({"reasoning": {"effort": "high"}}, "unsupported_parameter", "reasoning"),
        ({"truncation": "auto"}, "unsupported_parameter", "truncation"),
        ({"include": ["reasoning.encrypted_content"]}, "invalid_value", "include.0"),
        ({"top_logprobs": 3}, "invalid_value", "top_logprobs"),
        ({"top_logprobs": 21, "include": ["message.output_text.logprobs"]}, "invalid_value", "top_logprobs"),
        ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
        ({"max_output_tokens": "5"}, "invalid_type", "max_output_tokens"),
        ({"max_tokens": 5}, "unknown_parameter", "max_tokens"),
        ({"messages": [USER]}, "unknown_parameter", "messages"),
        ({"n": 2}, "unknown_parameter", "n"),
        ({"temperature": 3}, "invalid_value", "temperature"),
        ({"metadata": {"a": 1}}, "invalid_type", "metadata.a"),
        ({"metadata": {str(at): "x" for at in range(17)}}, "invalid_value", "metadata"),
        ({"stream_options": {}}, "invalid_value", "stream_options"),
        ({"text": {"format": {"type": "xml"}}}, "invalid_value", "text.format.type"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x"}}},
            "missing_required_parameter",
            "text.format.schema",
        ),
        ({"text": {"format": {"type": "text", "name": "x"}}}, "unknown_parameter", "text.format.name"),
        ({"text": {"verbosity": "low"}}, "invalid_value", "text.verbosity"),
        ({"tools": [{"type": "web_search"}]}, "invalid_value", "tools.0.type"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "invalid_value", "tools.0.name"),
        ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "invalid_value", "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "invalid_value", "tool_choice.type"),
        (
            {"tools": [TOOL], "tool_choice": {**ALLOWED, "tools": [{"type": "function", "name": "g"}]}},
            "invalid_value",
            "tool_choice.tools.0.name",
        ),
        ({"tools": [TOOL], "tool_choice": {**ALLOWED, "mode": "maybe"}}, "invalid_value", "tool_choice.mode"),
        ({"passed_on": {}}, "unknown_parameter", "passed_on"),
    ],
)
async def test_a_refusal_names_the_clients_own_field(request_body: dict[str, Any], code: str, param: str) -> None:
    status = 404 if code == "model_not_found" else 400
    assert await refusal_of(**request_body) == (status, code, param)


async def test_what_asks_for_nothing_is_let_through() -> None:
    nothing: dict[str, Any] = {
        "background": False, "conversation": None, "include": [], "instructions": None, "max_output_tokens": None,
        "metadata": {}, "parallel_tool_calls": True, "previous_response_id": None, "reasoning": {"effort": None},
        "safety_identifier": "s", "service_tier": "auto", "store": True, "stream": False, "temperature": None,
        "text": {"format": {"type": "text"}, "verbosity": "medium"}, "tool_choice": "auto", "tools": [],
        "top_logprobs": 0, "top_p": None, "truncation": "disabled", "user": "u", "max_tool_calls": 3,
    }  # fmt: skip
    queue = MemoryQueue(tell("x"))
    async with client_of(queue) as client:
        reply = await client.post(PATH, json={"model": "demo", "input": "hello", **nothing})
    assert reply.status_code == 200, reply.text
    assert reply.json()["safety_identifier"] == "s"


async def test_the_choice_among_tools_is_the_chats() -> None:
    queue = MemoryQueue(tell("x"))
    tools = [TOOL, {**TOOL, "name": "g"}]
    choices: list[Any] = ["auto", "required", {"type": "function", "name": "g"}, ALLOWED]
    async with client_of(queue) as client:
        for choice in choices:
            body = {"model": "demo", "input": "hello", "tools": tools, "tool_choice": choice}
            reply = await client.post(PATH, json=body)
            assert (reply.status_code, reply.json().get("tool_choice")) == (200, choice)
    found = [(job.tool_choice.is_required, job.tool_choice.names) for job in queue.submitted]
    assert found == [(False, ()), (True, ()), (True, ("g",)), (True, ("f",))]


async def test_extensions_of_a_chat_hold_here_too() -> None:
    queue = MemoryQueue(tell("x"))
    extensions = {
        "top_k": 4, "min_p": 0.1, "seed": 9, "stop": "END", "cache_salt": "s", "priority": 2,
        "media_io_kwargs": {"image": {"exif_transpose": False}}, "mm_processor_kwargs": {"max_dynamic_patch": 2},
    }  # fmt: skip
    async with client_of(queue) as client:
        reply = await client.post(PATH, json={"model": "demo", "input": "hello", **extensions})
    assert reply.status_code == 200, reply.text
    (job,) = queue.submitted
    assert (job.sampling.top_k, job.sampling.seed, job.sampling.stop) == (4, 9, ("END",))
    assert (job.cache_salt, job.priority, job.media.exif_transpose, job.media.max_dynamic_patch) == ("s", 2, False, 2)
