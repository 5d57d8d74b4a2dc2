"""The transports that the contract is held against. Another one joins by a class like `LocalTransport`."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import pytest

from schemas.control import Cancel, Drain
from schemas.events import Event
from schemas.jobs import Job
from server.transport.base import JobLost
from server.transport.zeromq import ZeroMQQueue
from tests.fakes.messages import hello
from workers.transport.base import JobSource
from workers.transport.zeromq import ZeroMQSource

LEASE_S = 0.4
PATIENCE_S = 5.0

T = TypeVar("T")


class Inbox:
    """What one end receives, one by one; a test that waits for nothing in particular fails, it does not hang."""

    def __init__(self, messages: AsyncIterator[T]) -> None:
        self._messages = messages

    async def next(self) -> T:
        return await asyncio.wait_for(anext(self._messages), PATIENCE_S)

    async def take(self, count: int) -> list[T]:
        return [await self.next() for _ in range(count)]


class LocalTransport:
    """ZeroMQ over an ipc socket in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "queue" / "socket"
        self._stack = contextlib.AsyncExitStack()
        self.queue = self._new_queue()

    def _new_queue(self) -> ZeroMQQueue:
        return ZeroMQQueue(self._path, max_queue=3, lease_s=LEASE_S)

    async def start(self) -> None:
        await self.queue.start()
        self._stack.push_async_callback(self._close_queue)

    async def _close_queue(self) -> None:
        await self.queue.close()

    async def worker(self, worker_id: str, credits: int = 4, pid: int = 1) -> tuple[JobSource, Inbox]:
        """A worker that has said Hello and claimed."""
        source = ZeroMQSource(f"ipc://{self._path}")
        await source.start(hello(worker_id, pid=pid))
        self._stack.push_async_callback(source.close)
        await source.claim(credits)
        await self.until(lambda: any(worker.worker_id == worker_id for worker in self.queue.workers()))
        return source, Inbox(source.messages())

    async def restart_gateway(self) -> None:
        """The gateway's end goes away, with all it knew, and comes back."""
        await self.queue.close()
        self.queue = self._new_queue()
        await self.queue.start()

    async def until(self, condition) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        await self._stack.aclose()


@pytest.fixture
async def transport() -> AsyncIterator[LocalTransport]:
    with tempfile.TemporaryDirectory(prefix="gl") as folder:
        transport = LocalTransport(Path(folder))
        await transport.start()
        yield transport
        await transport.close()


@pytest.fixture
def gateway(transport: LocalTransport) -> Inbox:
    """What the gateway receives."""
    return Inbox(transport.queue.messages())


Received = Job | Cancel | Drain | Event | JobLost
