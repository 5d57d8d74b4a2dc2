"""Responses of the background at gateways of one Redis: had at any of them, whichever is lost."""

import asyncio
import json
from typing import Any

import pytest
from redis.asyncio import Redis

from schemas.redis_names import gateway_mailbox
from tests.contract.hosts import LONG_S, TOKENS, GatewayHost, Hosts, WorkerHost, answered, hosts_of, until
from tests.fakes.proxy import Proxy
from tests.fakes.redis_server import RedisServer
from tests.fakes.scripted_backend import answer

pytestmark = [pytest.mark.redis, pytest.mark.timeout(60)]
PROMPT = "wait for it"
RESPONSES = "/v1/responses"


async def begin(gateway: GatewayHost) -> str:
    """The id of a response of the background."""
    body = {"model": "demo", "input": PROMPT, "seed": 7, "max_output_tokens": TOKENS, "background": True}
    begun = await gateway.client.post(RESPONSES, json=body)
    assert (begun.status_code, begun.json()["status"]) == (200, "queued"), begun.text
    response_id: str = begun.json()["id"]
    return response_id


async def state(gateway: GatewayHost, response_id: str) -> dict[str, Any]:
    found = await gateway.client.get(f"{RESPONSES}/{response_id}")
    assert found.status_code == 200, found.text
    response: dict[str, Any] = found.json()
    return response


async def until_status(gateway: GatewayHost, response_id: str, status: str) -> dict[str, Any]:
    async with asyncio.timeout(LONG_S):
        while (found := await state(gateway, response_id))["status"] != status:
            await asyncio.sleep(0.02)
    return found


def events(gateway: GatewayHost, response_id: str, **query: int) -> "asyncio.Task[list[dict[str, Any]]]":
    """Its stream's, read to the end."""

    async def read() -> list[dict[str, Any]]:
        stream = await gateway.client.get(f"{RESPONSES}/{response_id}", params={"stream": "true", **query})
        assert stream.status_code == 200, stream.text
        data = [line.removeprefix("data: ") for line in stream.text.split("\n") if line.startswith("data: ")]
        return [json.loads(one) for one in data]

    return asyncio.create_task(read())


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] for part in item["content"])


async def cluster(
    hosts: Hosts, redis: RedisServer, num_others: int = 1, max_jobs: int = 8
) -> tuple[Proxy, WorkerHost, list[GatewayHost]]:
    """A worker and gateways, the first of which can be cut off."""
    proxy = await hosts.stack.enter_async_context(Proxy(redis.port))
    gateways = [await hosts.gateway(proxy.url), *[await hosts.gateway() for _ in range(num_others)]]
    worker = await hosts.worker("w", max_jobs)
    for gateway in gateways:
        await gateway.knows("w")
    return proxy, worker, gateways


async def test_one_whose_gateway_is_lost_goes_on_where_it_is_asked_for(hosts: Hosts, redis: RedisServer) -> None:
    proxy, worker, (lost, *others) = await cluster(hosts, redis, num_others=2)
    response_id = await begin(lost)
    began = await until_status(others[0], response_id, "in_progress")
    await until(lambda: worker.handler.running)
    [before] = worker.handler.running
    watching, beside_it = events(others[1], response_id), events(others[1], response_id)
    proxy.cut()
    await until(lambda: worker.handler.running - {before})
    worker.handler.gate.set()
    done = await until_status(others[0], response_id, "incomplete")
    assert (done["id"], done["created_at"]) == (response_id, began["created_at"])
    assert text_of(done) == answer(PROMPT, 7, TOKENS)
    seen = await asyncio.wait_for(watching, LONG_S)
    assert await asyncio.wait_for(beside_it, LONG_S) == seen
    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
    assert seen[-1]["response"] == done
    for gateway in others:
        assert await asyncio.wait_for(events(gateway, response_id, starting_after=5), LONG_S) == seen[6:]


async def test_one_that_no_worker_has_begun_is_not_lost_with_its_gateway(hosts: Hosts, redis: RedisServer) -> None:
    proxy, worker, (lost, other) = await cluster(hosts, redis, max_jobs=1)
    before_it = other.ask("wait for it as well")
    await until(lambda: worker.handler.running)
    response_id = await begin(lost)
    proxy.cut()
    watching = events(other, response_id)
    async with Redis.from_url(redis.url) as client, asyncio.timeout(LONG_S):
        while len(await client.keys(gateway_mailbox("*"))) > 1:
            await asyncio.sleep(0.02)
    worker.handler.gate.set()
    await answered(before_it)
    seen = await asyncio.wait_for(watching, LONG_S)
    assert text_of(seen[-1]["response"]) == answer(PROMPT, 7, TOKENS)
    assert seen[-1]["response"]["id"] == response_id


async def test_one_whose_gateway_leaves_does_not_fail_with_it(hosts: Hosts, redis: RedisServer) -> None:
    _, worker, (other, _) = await cluster(hosts, redis)
    async with hosts_of(redis) as own:
        leaving = await own.gateway()
        await leaving.knows("w")
        response_id = await begin(leaving)
        await until_status(other, response_id, "in_progress")
    watching = events(other, response_id)
    worker.handler.gate.set()
    seen = await asyncio.wait_for(watching, LONG_S)
    assert text_of(seen[-1]["response"]) == answer(PROMPT, 7, TOKENS)
    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))


async def test_what_is_kept_for_an_idempotency_key_is_no_response(hosts: Hosts, redis: RedisServer) -> None:
    _, worker, (gateway, _) = await cluster(hosts, redis)
    worker.handler.gate.set()
    said = await answered(gateway.ask(PROMPT, **{"idempotency-key": "resp_1"}))
    for call in (gateway.client.get, gateway.client.delete):
        assert (await call(f"{RESPONSES}/resp_1")).status_code == 404
    assert (await gateway.client.post(f"{RESPONSES}/resp_1/cancel")).status_code == 404
    assert await answered(gateway.ask(PROMPT, **{"idempotency-key": "resp_1"})) == said


async def test_one_can_be_cancelled_and_deleted_at_a_gateway_that_does_not_make_it(
    hosts: Hosts, redis: RedisServer
) -> None:
    _, worker, (first, other) = await cluster(hosts, redis)
    response_id = await begin(first)
    await until_status(other, response_id, "in_progress")
    async with asyncio.timeout(LONG_S):
        while not worker.handler.running:
            await asyncio.sleep(0.01)
    cancelled = await other.client.post(f"{RESPONSES}/{response_id}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    worker.handler.gate.set()
    await until(lambda: not worker.handler.running)
    assert await state(first, response_id) == await state(other, response_id) == cancelled.json()
    assert (await other.client.delete(f"{RESPONSES}/{response_id}")).status_code == 200
    for gateway in (first, other):
        assert (await gateway.client.get(f"{RESPONSES}/{response_id}")).status_code == 404
