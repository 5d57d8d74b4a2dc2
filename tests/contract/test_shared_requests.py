"""One request with an `Idempotency-Key`, sent to several gateways of one Redis: one answer, whoever is lost."""

import asyncio
import re

import httpx
import pytest

from server.transport.answers import name_of
from tests.contract.hosts import LONG_S, TOKENS, GatewayHost, Hosts, until
from tests.fakes.proxy import Proxy
from tests.fakes.redis_server import RedisServer
from tests.fakes.scripted_backend import answer
from tests.server.serving import CHAT, ask, chunks_of, text_of

NAME = name_of("", "once")
pytestmark = [pytest.mark.redis, pytest.mark.timeout(60)]


def post(
    gateway: GatewayHost, prompt: str, *, last_id: int | None = None, path: str = CHAT, **parameters: object
) -> "asyncio.Task[httpx.Response]":
    body = ask(prompt, **{"stream": True, "seed": 7, "max_tokens": TOKENS, **parameters})
    headers = {"idempotency-key": "once"} | ({} if last_id is None else {"last-event-id": str(last_id)})
    return asyncio.create_task(gateway.client.post(path, json=body, headers=headers))


async def whole(request: "asyncio.Task[httpx.Response]") -> httpx.Response:
    response = await asyncio.wait_for(request, LONG_S)
    assert response.status_code == 200, response.text
    return response


def id_of(response: httpx.Response) -> str:
    """Drawn anew for each answer that is made."""
    found = re.search(r'"id":"([^"]+)"', response.text)
    assert found is not None
    return found[1]


def events_of(response: httpx.Response) -> list[str]:
    """A stream's events, by their numbers; comments left out."""
    events = [event for event in response.text.split("\n\n") if event and not event.startswith(":")]
    return [event for event in events if event.startswith("id: ")]


async def until_recorded(gateway: GatewayHost, num_events: int) -> None:
    """Wait until so many events of the answer are written down."""
    async with asyncio.timeout(LONG_S):
        while b"".join(await gateway.queue.answers.recorded(NAME)).count(b"id: ") < num_events:
            await asyncio.sleep(0.01)


async def lose(proxy: Proxy, request: "asyncio.Task[httpx.Response]") -> None:
    """Cut a gateway off for good, with its client."""
    proxy.cut()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_that_is_sent_to_two_gateways_at_once_is_answered_once(hosts: Hosts, stream: bool) -> None:
    gateways = [await hosts.gateway() for _ in range(2)]
    worker = await hosts.worker("w")
    for gateway in gateways:
        await gateway.knows("w")
    first = post(gateways[0], "wait for it", stream=stream)
    await until(lambda: worker.handler.running)
    second = post(gateways[1], "wait for it", stream=stream)
    worker.handler.gate.set()
    one, other = await whole(first), await whole(second)
    late = await whole(post(gateways[1], "wait for it", stream=stream))
    assert one.content == other.content == late.content
    assert one.headers["content-type"] == other.headers["content-type"]
    replayed = [answer.headers.get("idempotent-replayed") for answer in (one, other, late)]
    assert replayed == [None, "true", "true"]
    refused = await asyncio.wait_for(post(gateways[1], "something else", stream=stream), LONG_S)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "idempotency_key_reused")


@pytest.mark.parametrize("has_witness", [False, True])
async def test_a_stream_whose_gateway_is_lost_goes_on_at_another_behind_what_its_client_has(
    hosts: Hosts, redis: RedisServer, has_witness: bool
) -> None:
    proxy = await hosts.stack.enter_async_context(Proxy(redis.port))
    lost, other = await hosts.gateway(proxy.url), await hosts.gateway()
    worker = await hosts.worker("w")
    for gateway in (lost, other):
        await gateway.knows("w")
    orphan = post(lost, "wait for it")
    await until(lambda: worker.handler.running)
    [begun] = worker.handler.running
    witness = post(other, "wait for it") if has_witness else None
    await until_recorded(other, 2)
    await lose(proxy, orphan)
    rest = post(other, "wait for it", last_id=1)
    await until(lambda: worker.handler.running - {begun})
    worker.handler.gate.set()
    first = await whole(post(other, "wait for it"))
    assert text_of(chunks_of(first.text)) == answer("wait for it", 7, TOKENS)
    assert events_of(await whole(rest)) == events_of(first)[2:], "no event again, and none left out"
    assert {chunk["id"] for chunk in chunks_of(first.text)} == {f"chatcmpl-{begun}"}
    assert len({chunk["created"] for chunk in chunks_of(first.text)}) == 1
    if witness is not None:
        assert events_of(await whole(witness)) == events_of(first), "who was reading it there goes on"


async def test_two_clients_that_come_back_at_once_to_two_gateways_are_given_one_answer(
    hosts: Hosts, redis: RedisServer
) -> None:
    proxy = await hosts.stack.enter_async_context(Proxy(redis.port))
    lost, *others = [await hosts.gateway(proxy.url), await hosts.gateway(), await hosts.gateway()]
    worker = await hosts.worker("w")
    for gateway in (lost, *others):
        await gateway.knows("w")
    orphan = post(lost, "wait for it")
    await until_recorded(others[0], 2)
    await lose(proxy, orphan)
    both = [post(gateway, "wait for it", last_id=0) for gateway in others]
    worker.handler.gate.set()
    one, two = [await whole(request) for request in both]
    assert events_of(one) == events_of(two)
    assert text_of(chunks_of(one.text)) == answer("wait for it", 7, TOKENS)


async def test_an_answer_is_handed_on_when_its_second_gateway_is_lost_as_well(hosts: Hosts, redis: RedisServer) -> None:
    proxies = [await hosts.stack.enter_async_context(Proxy(redis.port)) for _ in range(2)]
    dying = [await hosts.gateway(proxy.url) for proxy in proxies]
    last = await hosts.gateway()
    worker = await hosts.worker("w")
    for gateway in (*dying, last):
        await gateway.knows("w")
    for gateway, proxy in zip(dying, proxies, strict=True):
        request = post(gateway, "wait for it", seed=None)
        await until_recorded(last, 2)
        await until(lambda: len(worker.handler.running) == 1)
        await lose(proxy, request)
        await until(lambda: not worker.handler.running)
    request = post(last, "wait for it", seed=None)
    await until(lambda: worker.handler.running)
    worker.handler.gate.set()
    chunks = chunks_of((await whole(request)).text)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert text_of(chunks).count(" ") == TOKENS


async def test_a_stream_whose_client_left_goes_on_for_whoever_comes_back_to_any_gateway(hosts: Hosts) -> None:
    gateways = [await hosts.gateway() for _ in range(2)]
    worker = await hosts.worker("w")
    for gateway in gateways:
        await gateway.knows("w")
    for place, gateway in enumerate(gateways * 2):
        request = post(gateway, "wait for it", last_id=1 if place else None)
        await until(lambda: worker.handler.running)
        await until_recorded(gateway, 2)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await until(lambda: not worker.handler.running)
    worker.handler.gate.set()
    rest = await whole(post(gateways[0], "wait for it", last_id=1))
    complete = await whole(post(gateways[1], "wait for it"))
    assert text_of(chunks_of(complete.text)) == answer("wait for it", 7, TOKENS)
    assert events_of(rest) == events_of(complete)[2:]


async def test_where_nothing_is_kept_a_client_that_has_a_part_hears_so(hosts: Hosts) -> None:
    gateway = await hosts.gateway()
    worker = await hosts.worker("w")
    await gateway.knows("w")
    for _ in range(2):
        refused = await asyncio.wait_for(post(gateway, "anything", last_id=3), LONG_S)
        assert (refused.status_code, refused.json()["error"]["param"]) == (404, "last-event-id")
    assert not worker.handler.running and await gateway.queue.answers.recorded(NAME) == []
    odd = await gateway.client.post(CHAT, json=ask("x"), headers={"idempotency-key": "k", "last-event-id": "x"})
    assert (odd.status_code, odd.json()["error"]["param"]) == (400, "last-event-id")


async def test_an_answer_that_failed_is_tried_anew_at_any_gateway(hosts: Hosts) -> None:
    gateways = [await hosts.gateway() for _ in range(2)]
    await hosts.worker("w")
    for gateway in gateways:
        await gateway.knows("w")
        failed = await asyncio.wait_for(post(gateway, "refuse", stream=False), LONG_S)
        assert (failed.status_code, failed.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert "idempotent-replayed" not in failed.headers
