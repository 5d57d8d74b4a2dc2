"""Gateways and workers of one Redis, each as if on a host of its own.

Gateways are whole applications and workers real ones round a scripted handler, whose right answer is always known.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx

from server.transport.redis_streams import RedisQueue
from tests.fakes.messages import hello
from tests.fakes.redis_server import RedisServer
from tests.fakes.scripted_backend import ScriptedHandler
from tests.server.serving import CHAT, ask, chunks_of, client_of, text_of
from workers.transport.redis_streams import RedisSource
from workers.worker import Worker

REDIS_LEASE_S = 2.5
"""Keys in Redis end by its clock: a machine that stands still for so long loses them, and the test."""
LONG_S = 20.0
TOKENS = 12


async def until(condition: Callable[[], object], patience_s: float = LONG_S) -> None:
    """Wait for a condition. Raises TimeoutError."""
    async with asyncio.timeout(patience_s):
        while not condition():
            await asyncio.sleep(0.01)


class WorkerHost:
    """A worker that runs, and its end of the queue."""

    def __init__(self, url: str, worker_id: str, max_jobs: int) -> None:
        self.handler = ScriptedHandler("demo")
        self._source = RedisSource(url, lease_s=REDIS_LEASE_S)
        introduction = hello(worker_id, model="demo")
        self._worker = Worker(self._source, self.handler, introduction, max_jobs, heartbeat_s=REDIS_LEASE_S / 4)
        self.life = asyncio.create_task(self._worker.run())

    async def end(self) -> None:
        self.life.cancel()
        await asyncio.gather(self.life, return_exceptions=True)


class Hosts:
    """Gateways and workers of one Redis, each as if on a host of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.stack = AsyncExitStack()

    async def gateway(self, url: str | None = None) -> "GatewayHost":
        queue = RedisQueue(url or self._url, max_queue=64, lease_s=REDIS_LEASE_S)
        client = await self.stack.enter_async_context(client_of(queue))
        return GatewayHost(queue, client)

    async def worker(self, worker_id: str, max_jobs: int = 8, url: str | None = None) -> WorkerHost:
        host = WorkerHost(url or self._url, worker_id, max_jobs)
        self.stack.push_async_callback(host.end)
        return host


class GatewayHost:
    """A gateway's end of the queue and an HTTP client of the gateway."""

    def __init__(self, queue: RedisQueue, client: httpx.AsyncClient) -> None:
        self.queue = queue
        self.client = client

    def ask(self, prompt: str, **headers: str) -> "asyncio.Task[httpx.Response]":
        """A streamed request that is under way."""
        body = ask(prompt, stream=True, seed=7, max_tokens=TOKENS)
        return asyncio.create_task(self.client.post(CHAT, json=body, headers=headers))

    async def knows(self, *worker_ids: str) -> None:
        """Wait until exactly these workers are known."""
        await until(lambda: {worker.worker_id for worker in self.queue.workers()} == set(worker_ids))


async def answered(request: "asyncio.Task[httpx.Response]") -> str:
    """The text of an answer; fails unless it ended as it should."""
    response = await asyncio.wait_for(request, LONG_S)
    assert response.text.endswith("data: [DONE]\n\n"), response.text
    return text_of(chunks_of(response.text))


@asynccontextmanager
async def hosts_of(server: RedisServer) -> AsyncIterator[Hosts]:
    """None yet; all that are started are ended."""
    hosts = Hosts(server.url)
    async with hosts.stack:
        yield hosts
