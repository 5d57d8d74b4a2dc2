"""Batches of two gateways that share a Redis and a worker: each keeps its own, and goes on with it after kill -9."""

import asyncio
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import openai
import pytest

from tests.e2e.scripted import Daemon, free_port, start_command, text_of
from tests.e2e.test_batches import NUM_LINES, answered, lines, prompt, sdk
from tests.fakes.redis_server import BINARY, redis_server
from tests.fakes.scripted_backend import answer
from tests.server.batches.rig import answer_of, content, submit

pytestmark = [
    pytest.mark.redis,
    pytest.mark.skipif(not BINARY, reason="there is no redis-server and no valkey-server on this machine"),
    pytest.mark.timeout(400),
]
PATIENCE_S = 120.0


class Host:
    """One gateway of the cluster, with a folder of its own, which can be killed and started again."""

    def __init__(self, url: str, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self._url = url
        self._stack = stack

    async def start(self) -> None:
        port = free_port()
        options = ("--data-dir", str(self.folder), "--batch-concurrency", "4")
        process = await _start(self._stack, "gateway", "--port", str(port), "--queue", self._url, *options)
        self.daemon = Daemon(process, port)
        self._stack.push_async_callback(self.daemon.client.aclose)
        self.client: openai.AsyncOpenAI = await self._stack.enter_async_context(sdk(self.daemon))
        await until(lambda: _is_ready(self.daemon))

    async def kill(self) -> None:
        self.daemon.process.kill()
        await self.daemon.process.wait()

    async def until_batch(self, batch_id: str, holds: Callable[[openai.types.Batch], bool]) -> openai.types.Batch:
        """The batch, once something holds of it."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds(batch := await self.client.batches.retrieve(batch_id)):
                await asyncio.sleep(0.05)
        return batch

    async def is_idle(self) -> bool:
        """Whether no worker has anything to do."""
        return not any(worker["running"] or worker["waiting"] for worker in await self.daemon.workers())


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():
            await asyncio.sleep(0.05)


async def _is_ready(daemon: Daemon) -> bool:
    return await daemon.readiness() == 200


async def _start(stack: AsyncExitStack, *arguments: str) -> Process:
    process = await start_command(*arguments, stderr=DEVNULL)

    async def end() -> None:
        if process.returncode is None:
            process.kill()
        # Not `wait` alone: the transport's pipe is only closed once what it holds has been read.
        await process.communicate()

    stack.push_async_callback(end)
    return process


@asynccontextmanager
async def two_hosts(folder: Path) -> AsyncIterator[tuple[Host, Host]]:
    """Two gateways and a worker that takes 20 ms a token."""
    with redis_server() as server:
        async with AsyncExitStack() as stack:
            await _start(stack, "worker", "slow", "--served-name", "tiny", "--queue", server.url)
            hosts = Host(server.url, folder / "first", stack), Host(server.url, folder / "second", stack)
            for host in hosts:
                await host.start()
            yield hosts


def num_completed(batch: openai.types.Batch) -> int:
    assert batch.request_counts is not None
    return batch.request_counts.completed


async def test_a_batch_belongs_to_its_gateway_which_goes_on_with_it_after_kill_9(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as (owner, other):
        batch = await submit(owner.client, lines())
        await owner.until_batch(batch.id, lambda batch: num_completed(batch) >= 6)
        with pytest.raises(openai.NotFoundError):
            await other.client.batches.retrieve(batch.id)
        live = [chunk async for chunk in other.daemon.chunks("live", max_tokens=5)]
        assert "".join(map(text_of, live)) == answer("live", 7, 5)

        await owner.kill()
        kept = answered(owner.folder)
        assert 6 <= len(kept) < NUM_LINES
        # What the worker did for the dead gateway ends, and nobody else takes the batch up.
        await until(other.is_idle)
        assert answered(owner.folder) == kept

        await owner.start()
        cancelled = await submit(other.client, lines())  # beside the first one, at the same worker
        await other.until_batch(cancelled.id, lambda batch: num_completed(batch) >= 2)
        await other.client.batches.cancel(cancelled.id)
        cancelled = await other.until_batch(cancelled.id, lambda batch: batch.status == "cancelled")
        outputs = await content(other.client, cancelled.output_file_id)
        assert 2 <= len(outputs) == num_completed(cancelled) < NUM_LINES

        batch = await owner.until_batch(batch.id, lambda batch: batch.status == "completed")
        outputs = await content(owner.client, batch.output_file_id)
        assert batch.error_file_id is None
        await until(other.is_idle)
    assert [one["custom_id"] for one in outputs] == [f"line-{number}" for number in range(NUM_LINES)]
    assert [answer_of(one) for one in outputs] == [answer(prompt(number), 7, 10) for number in range(NUM_LINES)]
    assert kept.items() <= {one["custom_id"]: one["id"] for one in outputs}.items()
