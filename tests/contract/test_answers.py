"""Answers that gateways of one Redis have in common: who is at them, what is written down, what is forgotten."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from schemas import redis_names as names
from schemas.errors import Unavailable
from schemas.redis_link import connect
from server.transport import redis_answers
from server.transport.answers import AnswerLost, Claim, Holder, name_of
from server.transport.redis_answers import RedisAnswers
from tests.contract.hosts import LONG_S
from tests.fakes.redis_server import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.timeout(60)]
NAME, SAME, OTHER = name_of("tenant", "name"), b"this request", b"another request"


@pytest.fixture
async def client(redis: RedisServer) -> AsyncIterator[Redis]:
    async with contextlib.aclosing(connect(redis.url)) as client:
        yield client


async def gateway_of(client: Redis, gateway_id: str, window_s: float = 600.0) -> RedisAnswers:
    """One that lives."""
    await client.xadd(names.gateway_mailbox(gateway_id), {b"made": b""})
    return RedisAnswers(client, gateway_id, window_s)


async def dies(client: Redis, gateway_id: str) -> None:
    await client.delete(names.gateway_mailbox(gateway_id))


async def pieces_of(answers: RedisAnswers, start: int = 0) -> list[bytes]:
    return [piece async for piece in answers.read(NAME, start)]


async def test_one_gateway_makes_an_answer_and_the_others_read_it_as_it_grows(client: Redis) -> None:
    first, second = await gateway_of(client, "first"), await gateway_of(client, "second")
    claims = await asyncio.gather(first.claim(NAME, SAME), second.claim(NAME, SAME))
    assert sorted(claim.holder.name for claim in claims) == ["OTHERS", "US"]
    writer, reader = (first, second) if claims[0].holder is Holder.US else (second, first)
    token = next(claim.token for claim in claims if claim.token)
    assert await reader.claim(NAME, OTHER) == Claim(Holder.ANOTHER_REQUEST)
    growing = reader.read(NAME)
    for at, piece in enumerate((b"a", b"b\x00")):
        assert await writer.write(NAME, token, at, [piece], is_last=False)
        assert await asyncio.wait_for(anext(growing), LONG_S) == piece
    assert await writer.write(NAME, token, 2, [b"c"], is_last=True)
    assert [piece async for piece in growing] == [b"c"]
    await dies(client, "first")
    await dies(client, "second")
    assert await pieces_of(reader) == await reader.recorded(NAME) == [b"a", b"b\x00", b"c"]
    assert await pieces_of(reader, 2) == [b"c"]
    assert await reader.claim(NAME, SAME) == Claim(Holder.OTHERS), "a whole answer outlives its gateway"
    for key in (names.answer(NAME), names.answer_pieces(NAME), names.shelf_of(NAME)):
        assert 0 < await client.ttl(key) <= 600


async def test_what_a_dead_gateway_has_begun_goes_on_and_none_of_its_words_counts_any_more(client: Redis) -> None:
    dying, heir = await gateway_of(client, "dying"), await gateway_of(client, "heir")
    witness = await gateway_of(client, "witness")
    begun = await dying.claim(NAME, SAME)
    await dying.write(NAME, begun.token, 0, [b"half"], is_last=False)
    growing, watching = heir.read(NAME), witness.read(NAME)
    assert await anext(growing) == await anext(watching) == b"half"
    await dies(client, "dying")
    with pytest.raises(AnswerLost):
        await asyncio.wait_for(anext(growing), LONG_S)
    assert await heir.claim(NAME, OTHER) == Claim(Holder.ANOTHER_REQUEST), "somebody may still come for it"
    again = await heir.claim(NAME, SAME)
    assert again.holder is Holder.US
    assert not await dying.write(NAME, begun.token, 1, [b"late"], is_last=True)
    await dying.leave(NAME, begun.token)
    await dying.drop(NAME, begun.token)
    assert await heir.write(NAME, again.token, 1, [b"whole"], is_last=True)
    assert await pieces_of(dying) == [b"half", b"whole"]
    assert await asyncio.wait_for(anext(watching), LONG_S) == b"whole", "who reads it need not know who writes it"


async def test_of_two_heirs_one_has_it(client: Redis) -> None:
    dying = await gateway_of(client, "dying")
    await dying.claim(NAME, SAME)
    await dies(client, "dying")
    heirs = [await gateway_of(client, f"heir {number}") for number in range(5)]
    claims = await asyncio.gather(*(heir.claim(NAME, SAME) for heir in heirs))
    assert sorted(claim.holder.name for claim in claims) == ["OTHERS"] * 4 + ["US"]


async def test_a_write_that_is_said_twice_counts_once_and_one_behind_a_gap_does_not(client: Redis) -> None:
    first = await gateway_of(client, "first")
    begun = await first.claim(NAME, SAME)
    for _ in range(2):
        assert await first.write(NAME, begun.token, 0, [b"once"], is_last=False)
    assert await first.recorded(NAME) == [b"once"]
    assert not await first.write(NAME, begun.token, 2, [b"what came before is lost"], is_last=True)
    assert await first.recorded(NAME) == [b"once"]


async def test_an_answer_that_is_left_is_anybodys_and_one_that_is_dropped_is_forgotten(client: Redis) -> None:
    first, second = await gateway_of(client, "first"), await gateway_of(client, "second")
    begun = await first.claim(NAME, SAME)
    await first.write(NAME, begun.token, 0, [b"half"], is_last=False)
    growing = second.read(NAME)
    await anext(growing)
    await first.leave(NAME, begun.token)
    with pytest.raises(AnswerLost):
        await asyncio.wait_for(anext(growing), LONG_S)
    again = await second.claim(NAME, SAME)
    assert again.holder is Holder.US and await second.recorded(NAME) == [b"half"]
    growing = first.read(NAME)
    await anext(growing)
    await second.drop(NAME, again.token)
    await first.claim(NAME, OTHER)
    with pytest.raises(AnswerLost):
        await asyncio.wait_for(anext(growing), LONG_S)
    assert await first.recorded(NAME) == []


async def test_an_answer_can_be_taken_from_the_gateway_that_is_at_it(client: Redis) -> None:
    first, second = await gateway_of(client, "first"), await gateway_of(client, "second")
    begun = await first.claim(NAME, SAME)
    taken = await second.claim(NAME, SAME, is_forced=True)
    assert taken.holder is Holder.US
    assert not await first.write(NAME, begun.token, 0, [b"late"], is_last=False)
    assert await second.write(NAME, taken.token, 0, [], is_last=True)
    assert await first.claim(NAME, SAME, is_forced=True) == Claim(Holder.OTHERS), "there is nothing to take any more"


async def test_each_tenant_has_so_many_answers_and_they_end_by_themselves(
    client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_answers, "MAX_ANSWERS", 3)
    answers = await gateway_of(client, "only", window_s=0.3)
    other = name_of("other tenant", "0")
    claim = await answers.claim(other, SAME)
    await answers.write(other, claim.token, 0, [b"theirs"], is_last=True)
    own = [name_of("tenant", str(number)) for number in range(5)]
    for name in own:
        claim = await answers.claim(name, SAME)
        assert await answers.write(name, claim.token, 0, [b"piece"], is_last=False)
    assert [len(await answers.recorded(name)) for name in [other, *own]] == [1, 0, 0, 1, 1, 1]
    async with asyncio.timeout(LONG_S):
        while await client.keys("glimpsed:answer*") + await client.keys("glimpsed:pieces*"):
            await asyncio.sleep(0.02)


async def test_a_redis_that_does_not_answer_is_unavailable() -> None:
    async with contextlib.aclosing(connect("redis://127.0.0.1:1/0")) as nobody:
        with pytest.raises(Unavailable):
            await RedisAnswers(nobody, "g").claim(NAME, SAME)


async def test_a_gateway_that_leaves_opens_no_connection_again(client: Redis) -> None:
    answers = await gateway_of(client, "leaving")
    begun = await answers.claim(NAME, SAME)
    answers.close()
    for call in (
        answers.claim(NAME, SAME),
        answers.write(NAME, begun.token, 0, [b"x"], is_last=True),
        answers.leave(NAME, begun.token),
        pieces_of(answers),
    ):
        with pytest.raises(Unavailable):
            await call
