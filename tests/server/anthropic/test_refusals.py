"""What the Messages API refuses, in Anthropic's form, with the client's own names."""

from typing import Any

import httpx
import pytest

from server.app import GatewayLimits
from server.streaming import Patience
from tests.fakes.memory_queue import MemoryQueue, tell
from tests.server.plays import hang_at
from tests.server.serving import Exchange, client_of, running

PATH = "/v1/messages"
USER: dict[str, Any] = {"role": "user", "content": "hello"}
BODY: dict[str, Any] = {"model": "demo", "max_tokens": 8, "messages": [USER]}


async def reply_to(path: str = PATH, **request: Any) -> httpx.Response:
    queue = MemoryQueue(tell("x"))
    async with client_of(queue) as client:
        body = {name: value for name, value in {**BODY, **request}.items() if value != "absent"}
        reply = await client.post(path, json=body)
    assert bool(queue.submitted) == (reply.status_code == 200), reply.text
    return reply


def said(**block: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [block]}]}


def image(**source: Any) -> dict[str, Any]:
    return said(type="image", source=source)


@pytest.mark.parametrize(
    ("request_body", "named"),
    [
        ({"max_tokens": "absent"}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"messages": "absent"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [USER] * 1025}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages.0.content"),
        ({"system": "Be kind.", "messages": [{"role": "user", "content": ""}]}, "messages.0.content"),
        ({"system": 5}, "system"),
        ({"system": [{"type": "image"}]}, "system.0.type"),
        (said(type="document", source={}), "messages.0.content.0.type"),
        (said(type="thinking", thinking="x"), "messages.0.content.0.type"),
        (said(type="text"), "messages.0.content.0.text"),
        (said(type="text", text="x", cache_control={"type": "eternal"}), "messages.0.content.0.cache_control.type"),
        (said(type="tool_use", id="x", name="y", input={}), "messages.0.content.0.type"),
        (said(type="tool_result", tool_use_id="x"), "messages.0.content.0.tool_use_id"),
        (image(type="file", file_id="x"), "messages.0.content.0.source.type"),
        (image(type="url"), "messages.0.content.0.source.url"),
        (image(type="url", url="x", data="y"), "messages.0.content.0.source.data"),
        (image(type="base64", data="x"), "messages.0.content.0.source.media_type"),
        ({"system": "x", **image(type="base64", data="x")}, "messages.0.content.0.source.media_type"),
        ({"system": "x", "messages": [USER, {"role": "assistant", "content": []}]}, "messages.1.content"),
        ({"system": "x", **said(type="tool_result", tool_use_id="x")}, "messages.0.content.0.tool_use_id"),
        (image(type="base64", media_type="image/png"), "messages.0.content.0.source.data"),
        ({"temperature": 3}, "temperature"),
        ({"top_k": -2}, "top_k"),
        ({"stop_sequences": ["a", "b", "c", "d", "e"]}, "stop_sequences"),
        ({"stop_sequences": [""]}, "stop_sequences.0"),
        ({"stop": "x"}, "stop"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"container": "x"}, "container"),
        ({"speed": "fast"}, "speed"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"metadata": {"user": "x"}}, "metadata.user"),
        ({"output_config": {"effort": "high"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools.0.name"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0.type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"n": 2}, "n"),
    ],
)
async def test_a_refusal_names_the_clients_own_field(request_body: dict[str, Any], named: str) -> None:
    reply = await reply_to(**request_body)
    answer = reply.json()
    assert (reply.status_code, answer["type"], answer["error"]["type"]) == (400, "error", "invalid_request_error")
    assert f"'{named}'" in answer["error"]["message"]
    assert set(answer) == {"type", "error"}


async def test_what_asks_for_nothing_is_let_through() -> None:
    nothing: dict[str, Any] = {
        "thinking": {"type": "disabled"}, "service_tier": "auto", "stop_sequences": [], "system": "", "stream": False,
        "metadata": {}, "tools": [], "container": None, "cache_control": {"type": "ephemeral", "ttl": "1h"},
        "speed": "standard", "tool_choice": {"type": "auto", "disable_parallel_tool_use": False},
    }  # fmt: skip
    reply = await reply_to(**nothing)
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("name", ["max_tokens", "temperature", "stop_sequences", "stream"])
async def test_a_count_takes_no_parameters_of_an_answer(name: str) -> None:
    reply = await reply_to(f"{PATH}/count_tokens", **{"max_tokens": "absent", name: 1})
    assert (reply.status_code, f"'{name}'" in reply.json()["error"]["message"]) == (400, True)


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("POST", "/v1/messages/batches", 404, "not_found_error"),
    ],
)
async def test_the_frameworks_refusals_have_anthropics_form_too(method: str, path: str, status: int, kind: str) -> None:
    async with client_of(MemoryQueue(tell("x"))) as client:
        reply = await client.request(method, path)
        assert (reply.status_code, reply.json()["error"]["type"]) == (status, kind)
        assert "error" in (await client.get("/v1/messagesx")).json()
        assert "type" not in (await client.get("/v1/messagesx")).json()


async def test_what_is_no_json_is_refused_in_anthropics_form() -> None:
    async with client_of(MemoryQueue(tell("x"))) as client:
        reply = await client.post(PATH, content=b"{", headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["type"]) == (400, "error")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": "sk-a"}, 200),
        ({"authorization": "Bearer sk-a"}, 200),
        ({"x-api-key": "sk-b"}, 401),
        ({"x-api-key": "sk-a", "authorization": "Bearer sk-b"}, 401),
        ({}, 401),
    ],
)
async def test_anthropics_key_header_opens_its_own_paths_alone(headers: dict[str, str], status: int) -> None:
    async with client_of(MemoryQueue(tell("x")), api_keys=["sk-a"]) as client:
        reply = await client.post(PATH, json=BODY, headers={"anthropic-version": "2023-06-01", **headers})
        assert reply.status_code == status
        if "x-api-key" in headers:
            assert (await client.get("/v1/models", headers={"x-api-key": headers["x-api-key"]})).status_code == 401


async def test_silence_is_broken_by_pings() -> None:
    queue = MemoryQueue(hang_at(2))
    limits = GatewayLimits(patience=Patience(keep_alive_s=0.001))
    async with running(queue, limits=limits) as app:
        async with Exchange(app, {**BODY, "stream": True}, path=PATH) as exchange:
            assert await exchange.status() == 200
            body = b""
            while body.count(b"event: ping") < 3:
                body += await exchange.next_body()
            exchange.leave()
            await exchange.served
    assert queue.cancelled == [queue.submitted[0].job_id]
