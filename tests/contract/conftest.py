"""The transports that the contract is held against. Another one joins by a class like `LocalTransport`."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from schemas.control import Cancel, Drain
from schemas.events import Event
from schemas.jobs import Job
from server.transport.base import JobLost, JobQueue
from server.transport.redis_streams import RedisQueue
from server.transport.zeromq import ZeroMQQueue
from tests.contract.hosts import REDIS_LEASE_S, Hosts, hosts_of
from tests.fakes.messages import hello
from tests.fakes.redis_server import BINARIES, RedisServer, redis_server
from workers.transport.base import JobSource
from workers.transport.redis_streams import RedisSource
from workers.transport.zeromq import ZeroMQSource

LOCAL_LEASE_S = 1.5
"""Some tests wait for its end. A process that stands still for so long, beside others, loses what it should hold."""
PATIENCE_S = 15.0
MAX_QUEUE = 3
AFFINITY_MARGIN = 0.25
SERVERS = [
    pytest.param(
        name, marks=[pytest.mark.redis, pytest.mark.skipif(not binary, reason=f"there is no {name}-server here")]
    )
    for name, binary in BINARIES.items()
]
"""For tests to run with each that is on this machine."""

T = TypeVar("T")


class Inbox:
    """What one end receives, one by one; a test that waits for nothing in particular fails, it does not hang."""

    def __init__(self, messages: AsyncIterator[T]) -> None:
        self._messages = messages

    async def next(self) -> T:
        return await asyncio.wait_for(anext(self._messages), PATIENCE_S)

    async def take(self, count: int) -> list[T]:
        return [await self.next() for _ in range(count)]


class Transport:
    """A gateway's end and as many workers' ends as a test wants."""

    def __init__(self) -> None:
        self._stack = contextlib.AsyncExitStack()
        self.queue = self.new_queue()

    def new_queue(self) -> JobQueue:
        raise NotImplementedError

    def new_source(self) -> JobSource:
        raise NotImplementedError

    async def start(self) -> None:
        await self.queue.start()
        self._stack.push_async_callback(self._close_queue)

    async def _close_queue(self) -> None:
        await self.queue.close()

    async def worker(self, worker_id: str, credits: int = 4, pid: int = 1) -> tuple[JobSource, Inbox]:
        """A worker that has said Hello and claimed."""
        source = self.new_source()
        await source.start(hello(worker_id, pid=pid))
        self._stack.push_async_callback(source.close)
        await source.claim(credits)
        await self.until(lambda: any(worker.worker_id == worker_id for worker in self.queue.workers()))
        return source, Inbox(source.messages())

    async def until_looking(self, num_workers: int) -> None:
        """Until so many workers are waiting for the next job, where they fetch it themselves."""

    async def restart_gateway(self) -> None:
        """The gateway's end goes away, with all it knew, and comes back."""
        await self.queue.close()
        self.queue = self.new_queue()
        await self.queue.start()

    async def until(self, condition) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        await self._stack.aclose()


class LocalTransport(Transport):
    """ZeroMQ over an ipc socket in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "queue" / "socket"
        super().__init__()

    def new_queue(self) -> ZeroMQQueue:
        return ZeroMQQueue(self._path, MAX_QUEUE, LOCAL_LEASE_S, AFFINITY_MARGIN)

    def new_source(self) -> ZeroMQSource:
        return ZeroMQSource(f"ipc://{self._path}")


class RedisTransport(Transport):
    """Redis Streams on a real server, which holds nothing else."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        super().__init__()

    def new_queue(self) -> RedisQueue:
        return RedisQueue(self.server.url, MAX_QUEUE, REDIS_LEASE_S, AFFINITY_MARGIN)

    def new_source(self) -> RedisSource:
        return RedisSource(self.server.url, lease_s=REDIS_LEASE_S)

    async def until_looking(self, num_workers: int) -> None:
        with contextlib.closing(self.server.client()) as client:
            await self.until(lambda: num_workers == sum(_is_looking(entry) for entry in client.client_list()))


def _is_looking(client: dict[str, str]) -> bool:
    return client["cmd"] == "xreadgroup" and "b" in client["flags"]


@pytest.fixture(scope="package")
def _started() -> Iterator[Callable[[str], RedisServer]]:
    """A running server by its name."""
    with contextlib.ExitStack() as stack:
        servers: dict[str, RedisServer] = {}

        def started(name: str) -> RedisServer:
            if name not in servers:
                servers[name] = stack.enter_context(redis_server(BINARIES[name]))
            with contextlib.closing(servers[name].client()) as client:
                client.flushall()
            return servers[name]

        yield started


@pytest.fixture(params=SERVERS)
def binary(request: pytest.FixtureRequest) -> str:
    """A server's program."""
    path = BINARIES[request.param]
    assert path is not None
    return path


@pytest.fixture(params=SERVERS)
def redis(request: pytest.FixtureRequest, _started: Callable[[str], RedisServer]) -> RedisServer:
    """A server without a key."""
    return _started(request.param)


@pytest.fixture
async def hosts(redis: RedisServer) -> AsyncIterator[Hosts]:
    """Gateways and workers of that server, as a test starts them."""
    async with hosts_of(redis) as hosts:
        yield hosts


@pytest.fixture(params=["local", *SERVERS])
async def transport(request: pytest.FixtureRequest, _started: Callable[[str], RedisServer]) -> AsyncIterator[Transport]:
    with tempfile.TemporaryDirectory(prefix="gl") as folder:
        is_local = request.param == "local"
        transport = LocalTransport(Path(folder)) if is_local else RedisTransport(_started(request.param))
        await transport.start()
        yield transport
        await transport.close()


@pytest.fixture
def gateway(transport: Transport) -> Inbox:
    """What the gateway receives."""
    return Inbox(transport.queue.messages())


Received = Job | Cancel | Drain | Event | JobLost
