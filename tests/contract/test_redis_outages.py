"""A Redis that is away for a while, or loses what it had: requests that were taken are answered all the same."""

import asyncio
import contextlib
import time
from collections.abc import Callable

import pytest
from redis.exceptions import ResponseError

from tests.contract.hosts import LONG_S, TOKENS, GatewayHost, Hosts, WorkerHost, answered, hosts_of, until
from tests.fakes.redis_server import ALWAYS, EVERY_SECOND, RedisServer, redis_server
from tests.fakes.scripted_backend import answer

pytestmark = [pytest.mark.redis, pytest.mark.timeout(60)]
Change = Callable[[RedisServer], None]


def freeze(server: RedisServer) -> None:
    server.freeze(True)


def thaw(server: RedisServer) -> None:
    server.freeze(False)


def fill_disk(server: RedisServer) -> None:
    server.fill_disk(True)
    wait_until(lambda: not can_write(server))


def free_disk(server: RedisServer) -> None:
    server.fill_disk(False)
    wait_until(lambda: can_write(server))


def can_write(server: RedisServer) -> bool:
    with contextlib.closing(server.client()) as client:
        try:
            client.set("glimpsed:probe", "x")
        except ResponseError:
            return False
    return True


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Requests:
    """One that runs and one that waits, at a gateway with one worker."""

    def __init__(self, gateway: GatewayHost, worker: WorkerHost) -> None:
        self.gateway = gateway
        self.worker = worker

    async def begin(self) -> None:
        await self.gateway.knows("w")
        self.running = self.gateway.ask("wait and run")
        await until(lambda: self.worker.handler.running)
        self.waiting = self.gateway.ask("only waits")
        await until(lambda: any(job.pointer for job in self.gateway.queue._waiting.values()))

    async def assert_exact(self) -> None:
        self.worker.handler.gate.set()
        assert await answered(self.running) == answer("wait and run", 7, TOKENS)
        assert await answered(self.waiting) == answer("only waits", 7, TOKENS)


async def begun(hosts: Hosts) -> Requests:
    requests = Requests(await hosts.gateway(), await hosts.worker("w", max_jobs=1))
    await requests.begin()
    return requests


@pytest.mark.parametrize(
    ("options", "goes", "comes_back"),
    [
        pytest.param({}, RedisServer.kill, RedisServer.start, id="killed, forgets all"),
        pytest.param(ALWAYS, RedisServer.kill, RedisServer.start, id="killed, keeps all"),
        pytest.param(EVERY_SECOND, RedisServer.kill, RedisServer.start, id="killed, keeps what is a second old"),
        pytest.param({}, freeze, thaw, id="frozen"),
        pytest.param(EVERY_SECOND, fill_disk, free_disk, id="its disk is full"),
    ],
)
async def test_requests_outlast_a_redis_that_is_away_and_new_ones_are_refused_meanwhile(
    binary: str, options: dict[str, object], goes: Change, comes_back: Change
) -> None:
    with redis_server(binary, options) as server:
        async with hosts_of(server) as hosts:
            requests = await begun(hosts)
            await asyncio.to_thread(goes, server)
            refused = await asyncio.wait_for(requests.gateway.ask("too soon"), LONG_S)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "service_unavailable")
            assert "retry-after" in refused.headers
            await asyncio.to_thread(comes_back, server)
            await requests.assert_exact()


async def test_requests_outlast_a_redis_that_is_emptied(hosts: Hosts, redis: RedisServer) -> None:
    requests = await begun(hosts)
    with contextlib.closing(redis.client()) as client:
        client.flushall()
    await requests.assert_exact()
