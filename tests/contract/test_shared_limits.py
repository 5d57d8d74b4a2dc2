"""A key's limits at several gateways of one Redis: one bucket that all draw from; without Redis, each gateway's own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest

from schemas import redis_names as names
from schemas.errors import Overloaded, Unavailable
from server.app import GatewayLimits
from server.limits.key_limits import KeyLimits
from server.limits.rates import RateLimits
from server.limits.redis_buckets import RedisBuckets
from server.limits.sharing import share
from tests.contract.hosts import LONG_S
from tests.fakes.clock import Clock
from tests.fakes.memory_queue import MemoryQueue, tell
from tests.fakes.redis_server import RedisServer, redis_server
from tests.server.serving import CHAT, ask, client_of

pytestmark = [pytest.mark.redis, pytest.mark.timeout(60)]


class Gateway:
    """What one gateway knows of the limits. Its own time stands still: what flows in does so by the time of Redis."""

    def __init__(self, url: str, limits: KeyLimits) -> None:
        self.clock = Clock()
        self.rates = RateLimits(lambda tenant: limits, self.clock)
        self.buckets = RedisBuckets(url)

    async def share(self) -> None:
        await share(self.rates, self.buckets, self.clock)

    def refuses_request(self) -> bool:
        return _is_refused(lambda: self.rates.take_request("key"))

    def refuses_tokens(self, num_tokens: int) -> bool:
        return _is_refused(lambda: self.rates.reserve_tokens("key", num_tokens))


def _is_refused(taking: Callable[[], object]) -> bool:
    try:
        taking()
    except Overloaded:
        return True
    return False


@asynccontextmanager
async def gateways_of(server: RedisServer, **limits: int) -> AsyncIterator[list[Gateway]]:
    """Two of them."""
    async with AsyncExitStack() as stack:
        gateways = [Gateway(server.url, KeyLimits(**limits)) for _ in range(2)]
        for gateway in gateways:
            stack.push_async_callback(gateway.buckets.close)
        yield gateways


async def test_what_one_gateway_grants_is_gone_at_the_other_and_an_excess_is_a_debt(redis: RedisServer) -> None:
    async with gateways_of(redis, requests_per_minute=1) as (first, second):
        assert [first.refuses_request() for _ in range(2)] == [False, True]
        await first.share()
        assert not second.refuses_request(), "it had not heard of the other's yet"
        await second.share()
        for gateway in (second, first):
            assert gateway.refuses_request()
            await gateway.share()
            with pytest.raises(Overloaded) as refusal:
                gateway.rates.take_request("key")
            # Two were granted of one: the second is to be made up for before the next. Some flowed in meanwhile.
            assert 60 < (refusal.value.retry_after_s or 0) <= 120


async def test_tokens_that_one_gateway_gives_back_are_there_for_the_other(redis: RedisServer) -> None:
    async with gateways_of(redis, tokens_per_minute=1000) as (first, second):
        reserved = first.rates.reserve_tokens("key", 900)
        await first.share()
        assert not second.refuses_tokens(10)
        await second.share()
        assert second.refuses_tokens(900)
        first.rates.settle("key", reserved, used=20)
        await first.share()
        await second.share()
        assert not second.refuses_tokens(900)


async def test_keys_and_kinds_of_limit_are_counted_apart_and_forgotten_once_they_are_full(redis: RedisServer) -> None:
    async with gateways_of(redis, requests_per_minute=60, tokens_per_minute=1000) as (first, _):
        first.rates.take_request("key")
        first.rates.reserve_tokens("other", 500)
        await first.share()
        with contextlib.closing(redis.client()) as client:
            left = {
                name: client.pttl(names.bucket(name))
                for name in ("requests:key", "tokens:key", "requests:other", "tokens:other")
            }
    assert {name for name, ttl_ms in left.items() if ttl_ms <= 0} == set()
    assert left["tokens:key"] <= 1000 < left["requests:key"] <= 2000
    assert 20_000 < left["tokens:other"] <= 31_000


async def test_without_redis_each_gateway_counts_by_itself_and_an_empty_one_learns_from_them(binary: str) -> None:
    with redis_server(binary) as server:
        async with gateways_of(server, requests_per_minute=2) as (first, second):
            assert not first.refuses_request()
            await first.share()
            server.kill()
            for gateway in (first, second):
                assert not gateway.refuses_request()
                with pytest.raises(Unavailable):
                    await gateway.share()
            assert first.refuses_request()
            assert not second.refuses_request()
            server.start()
            await first.share()
            await second.share()
            assert first.refuses_request()
            assert second.refuses_request()


async def test_a_key_that_has_used_up_its_limit_at_one_gateway_is_refused_by_another(redis: RedisServer) -> None:
    limits = GatewayLimits(of_key=KeyLimits(requests_per_minute=3))

    async def status(gateway: httpx.AsyncClient) -> int:
        return (await gateway.post(CHAT, json=ask("hello"))).status_code

    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(
                client_of(MemoryQueue(tell("hi")), limits=limits, shared_buckets=RedisBuckets(redis.url))
            )
            for _ in range(2)
        ]
        assert [await status(first) for _ in range(4)] == [200, 200, 200, 429]
        async with asyncio.timeout(LONG_S):
            while await status(second) != 429:
                await asyncio.sleep(0.05)
