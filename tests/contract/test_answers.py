"""One request with an `Idempotency-Key`, sent to several gateways of one Redis: one answer, made once."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from redis.asyncio import Redis

from schemas import redis_names as names
from schemas.errors import Unavailable
from schemas.redis_link import connect
from server.transport.answers import AnswerLost, Claim, Holder
from server.transport.redis_answers import RedisAnswers
from tests.contract.hosts import LONG_S, TOKENS, GatewayHost, Hosts, until
from tests.fakes.proxy import Proxy
from tests.fakes.redis_server import RedisServer
from tests.fakes.scripted_backend import answer
from tests.server.serving import CHAT, ask, chunks_of, text_of

pytestmark = [pytest.mark.redis, pytest.mark.timeout(60)]
NAME, SAME, OTHER = "name", b"this request", b"another request"


@pytest.fixture
async def client(redis: RedisServer) -> AsyncIterator[Redis]:
    async with contextlib.aclosing(connect(redis.url)) as client:
        yield client


async def gateway_of(client: Redis, gateway_id: str) -> RedisAnswers:
    """One that lives."""
    await client.xadd(names.gateway_mailbox(gateway_id), {b"made": b""})
    return RedisAnswers(client, gateway_id)


async def dies(client: Redis, gateway_id: str) -> None:
    await client.delete(names.gateway_mailbox(gateway_id))


async def pieces_of(answers: RedisAnswers) -> list[bytes]:
    return [piece async for piece in answers.read(NAME)]


async def test_one_gateway_makes_an_answer_and_the_others_read_it_as_it_grows(client: Redis) -> None:
    first, second = await gateway_of(client, "first"), await gateway_of(client, "second")
    claims = await asyncio.gather(first.claim(NAME, SAME), second.claim(NAME, SAME))
    assert sorted(claim.holder.name for claim in claims) == ["OTHERS", "US"]
    writer, reader = (first, second) if claims[0].holder is Holder.US else (second, first)
    token = next(claim.token for claim in claims if claim.token)
    assert await reader.claim(NAME, OTHER) == Claim(Holder.ANOTHER_REQUEST)
    growing = reader.read(NAME)
    for piece in (b"a", b"b\x00"):
        assert await writer.write(NAME, token, [piece], is_last=False)
        assert await asyncio.wait_for(anext(growing), LONG_S) == piece
    assert await writer.write(NAME, token, [b"c"], is_last=True)
    assert [piece async for piece in growing] == [b"c"]
    await dies(client, "first")
    await dies(client, "second")
    assert await pieces_of(reader) == [b"a", b"b\x00", b"c"]
    assert await reader.claim(NAME, SAME) == Claim(Holder.OTHERS), "a whole answer outlives its gateway"
    assert 0 < await client.ttl(names.answer(NAME)) <= 600


async def test_what_a_dead_gateway_has_begun_is_anybodys_and_none_of_its_words_counts_any_more(client: Redis) -> None:
    dying, heir = await gateway_of(client, "dying"), await gateway_of(client, "heir")
    begun = await dying.claim(NAME, SAME)
    await dying.write(NAME, begun.token, [b"half"], is_last=False)
    growing = heir.read(NAME)
    assert await anext(growing) == b"half"
    await dies(client, "dying")
    with pytest.raises(AnswerLost):
        await asyncio.wait_for(anext(growing), LONG_S)
    again = await heir.claim(NAME, OTHER)
    assert again.holder is Holder.US
    assert not await dying.write(NAME, begun.token, [b"late"], is_last=True)
    await dying.drop(NAME, begun.token)
    assert await heir.write(NAME, again.token, [b"whole"], is_last=True)
    assert await pieces_of(dying) == [b"whole"]


async def test_an_answer_that_is_dropped_is_forgotten(client: Redis) -> None:
    first, second = await gateway_of(client, "first"), await gateway_of(client, "second")
    begun = await first.claim(NAME, SAME)
    await first.write(NAME, begun.token, [b"half"], is_last=False)
    growing = second.read(NAME)
    await anext(growing)
    await first.drop(NAME, begun.token)
    with pytest.raises(AnswerLost):
        await asyncio.wait_for(anext(growing), LONG_S)
    assert (await second.claim(NAME, SAME)).holder is Holder.US


async def test_a_redis_that_does_not_answer_is_unavailable() -> None:
    async with contextlib.aclosing(connect("redis://127.0.0.1:1/0")) as nobody:
        with pytest.raises(Unavailable):
            await RedisAnswers(nobody, "g").claim(NAME, SAME)


async def test_a_gateway_that_leaves_opens_no_connection_again(client: Redis) -> None:
    answers = await gateway_of(client, "leaving")
    begun = await answers.claim(NAME, SAME)
    answers.close()
    for call in (answers.claim(NAME, SAME), answers.write(NAME, begun.token, [b"x"], is_last=True), pieces_of(answers)):
        with pytest.raises(Unavailable):
            await call


def post(gateway: GatewayHost, prompt: str, *, stream: bool = True) -> "asyncio.Task[httpx.Response]":
    body = ask(prompt, stream=stream, seed=7, max_tokens=TOKENS)
    return asyncio.create_task(gateway._client.post(CHAT, json=body, headers={"idempotency-key": "once"}))


async def whole(request: "asyncio.Task[httpx.Response]") -> httpx.Response:
    response = await asyncio.wait_for(request, LONG_S)
    assert response.status_code == 200
    return response


def id_of(response: httpx.Response) -> str:
    """Drawn anew for each answer that is made."""
    found = re.search(r'"id":"([^"]+)"', response.text)
    assert found is not None
    return found[1]


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


async def test_a_request_whose_gateway_is_lost_is_answered_by_another(hosts: Hosts, redis: RedisServer) -> None:
    proxy = await hosts.stack.enter_async_context(Proxy(redis.port))
    lost, other = await hosts.gateway(proxy.url), await hosts.gateway()
    worker = await hosts.worker("w")
    await lost.knows("w")
    await other.knows("w")
    orphan = post(lost, "wait for it")
    await until(lambda: worker.handler.running)
    proxy.cut()
    await until(lambda: not worker.handler.running)
    again = post(other, "wait for it")
    await until(lambda: worker.handler.running)
    worker.handler.gate.set()
    response = await whole(again)
    assert text_of(chunks_of(response.text)) == answer("wait for it", 7, TOKENS)
    assert "idempotent-replayed" not in response.headers
    proxy.mend()
    assert id_of(await whole(orphan)) != id_of(response), "it was only parted, and goes on for whoever still listens"


async def test_an_answer_that_failed_is_tried_anew_at_any_gateway(hosts: Hosts) -> None:
    gateways = [await hosts.gateway() for _ in range(2)]
    await hosts.worker("w")
    for gateway in gateways:
        await gateway.knows("w")
        failed = await asyncio.wait_for(post(gateway, "refuse", stream=False), LONG_S)
        assert (failed.status_code, failed.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert "idempotent-replayed" not in failed.headers
