"""Gateways and workers as processes that meet in a Redis: killed, stopped and woken, without a word to each other."""

import asyncio
import contextlib
import itertools
import os
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import psutil
import pytest

from tests.e2e.scripted import Daemon, start_command, text_of
from tests.fakes.ports import free_port
from tests.fakes.redis_server import BINARY, redis_server
from tests.fakes.scripted_backend import answer

pytestmark = [
    pytest.mark.redis,
    pytest.mark.skipif(not BINARY, reason="there is no redis-server and no valkey-server on this machine"),
    pytest.mark.timeout(400),
]
PATIENCE_S = 120.0
TOKENS = 150
"""At 20 ms each, a stream takes three seconds at least."""


class Cluster:
    """Two gateways and two workers of one Redis."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack
        self._ports = [free_port(), free_port()]
        self.gateways: list[Daemon] = []
        self.workers: list[Process] = []

    async def start(self) -> None:
        self.gateways = [await self._gateway(port) for port in self._ports]
        self.workers = [await self._worker() for _ in range(2)]
        for gateway in self.gateways:
            await self.until_workers(gateway, 2)

    async def add_worker(self) -> None:
        """One more."""
        self.workers.append(await self._worker())
        for gateway in self.gateways:
            await self.until_workers(gateway, len(self.workers))

    async def start_gateway(self) -> Daemon:
        """One more, once it knows a worker."""
        gateway = await self._gateway(free_port())
        await until_ready(gateway)
        return gateway

    async def restart_gateway(self, index: int) -> None:
        """SIGTERM, and another one in its place once it has left as it should."""
        self.gateways[index].process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(self.gateways[index].process.wait(), PATIENCE_S) == 0
        self.gateways[index] = await self._gateway(self._ports[index])
        await self.until_workers(self.gateways[index], 2)

    async def restart_worker(self, index: int) -> None:
        """SIGTERM, and another one in its place once it has left as it should."""
        self.workers[index].send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(self.workers[index].wait(), PATIENCE_S) == 0
        self.workers[index] = await self._worker()
        for gateway in self.gateways:
            await self.until_workers(gateway, 2)

    async def _gateway(self, port: int) -> Daemon:
        gateway = Daemon(await self._process("gateway", "--port", str(port), "--queue", self._url), port)
        self._stack.push_async_callback(gateway.client.aclose)
        return gateway

    async def _worker(self) -> Process:
        """One that hands back what it cannot finish within half a second."""
        name = ("slow", "--served-name", "tiny")
        return await self._process("worker", *name, "--queue", self._url, "--shutdown-timeout", "0.5")

    async def _process(self, *arguments: str) -> Process:
        process = await start_command(*arguments, stderr=DEVNULL)

        async def end() -> None:
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            await process.wait()

        self._stack.push_async_callback(end)
        return process

    async def until_workers(self, gateway: Daemon, count: int) -> None:
        """Until a gateway knows so many workers."""
        async with asyncio.timeout(PATIENCE_S):
            while await _num_workers(gateway) != count:
                await asyncio.sleep(0.05)


async def until_ready(gateway: Daemon) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await _num_workers(gateway) < 1:
            await asyncio.sleep(0.05)


async def _num_workers(gateway: Daemon) -> int:
    try:
        return len(await gateway.workers())
    except httpx.TransportError:
        return -1  # Not listening yet.


@asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    with redis_server() as server:
        async with AsyncExitStack() as stack:
            cluster = Cluster(server.url, stack)
            await cluster.start()
            yield cluster


class Stream:
    """One client's stream."""

    def __init__(self, gateway: Daemon, prompt: str) -> None:
        self.prompt = prompt
        self.text = ""
        self.is_done = False
        self._gateway = gateway
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for chunk in self._gateway.chunks(self.prompt, max_tokens=TOKENS):
            self.text += text_of(chunk)
            self.is_done = chunk == {"done": True}

    async def until_begun(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.text.count(" ") < 5:
                await asyncio.sleep(0.01)

    async def assert_exact(self) -> None:
        await asyncio.wait_for(self.task, PATIENCE_S)
        assert self.is_done
        assert self.text == answer(self.prompt, 7, TOKENS)


class Caller:
    """A client that asks one question after another, and the other gateway where one refuses or does not listen."""

    def __init__(self, number: int, both: Cluster) -> None:
        self.num_answers = 0
        self.is_enough = False
        self._number = number
        self._both = both
        self.task = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        while not self.is_enough:
            prompt = f"caller {self._number} question {self.num_answers}"
            assert await self._answer(prompt) == answer(prompt, 7, TOKENS)
            self.num_answers += 1

    async def _answer(self, prompt: str) -> str:
        for gateway in itertools.cycle((self._number, self._number + 1)):
            text = ""
            # A connection that is still to be accepted when its gateway stops listening is reset.
            with contextlib.suppress(httpx.NetworkError, httpx.RemoteProtocolError):
                async for chunk in self._both.gateways[gateway % 2].chunks(prompt, max_tokens=TOKENS):
                    if chunk.get("status") == 503:
                        break
                    assert "error" not in chunk, chunk
                    text += text_of(chunk)
                    if chunk == {"done": True}:
                        return text
            assert text == "", "broken off"
            await asyncio.sleep(0.05)
        raise AssertionError


async def test_restarting_every_gateway_and_worker_in_turn_under_load_loses_no_request() -> None:
    async with cluster() as both:
        callers = [Caller(number, both) for number in range(3)]
        for index in range(2):
            await both.restart_gateway(index)
            await both.restart_worker(index)
        for caller in callers:
            caller.is_enough = True
            await asyncio.wait_for(caller.task, PATIENCE_S)
            assert caller.num_answers > 0


async def test_streams_of_both_gateways_are_exact_when_a_worker_is_killed_and_one_is_stopped_and_woken() -> None:
    async with cluster() as both:
        streams = [Stream(gateway, f"prompt {number}") for number in range(3) for gateway in both.gateways]
        for stream in streams:
            await stream.until_begun()
        killed = await both.gateways[0].busy_worker()
        os.kill(killed, signal.SIGKILL)
        for stream in streams:
            await stream.assert_exact()

        [left] = [worker["pid"] for worker in await both.gateways[0].workers() if worker["pid"] != killed]
        frozen = Stream(both.gateways[1], "frozen and woken")
        await frozen.until_begun()
        os.kill(left, signal.SIGSTOP)
        await both.until_workers(both.gateways[1], 0)
        os.kill(left, signal.SIGCONT)
        await frozen.assert_exact()


async def test_a_killed_gateways_jobs_end_and_the_other_gateways_go_on() -> None:
    async with cluster() as both:
        dying, other = both.gateways
        orphan, heard = Stream(dying, "orphan"), Stream(other, "heard")
        await orphan.until_begun()
        await heard.until_begun()
        dying.process.kill()
        await asyncio.gather(orphan.task, return_exceptions=True)
        assert not orphan.is_done
        await heard.assert_exact()
        async with asyncio.timeout(PATIENCE_S):
            while any(worker["running"] for worker in await other.workers()):
                await asyncio.sleep(0.05)


async def test_serve_takes_a_redis_notices_its_workers_death_at_once_and_hides_the_password() -> None:
    with redis_server() as server:
        url = server.url.replace("redis://", "redis://default:secret@")
        with contextlib.closing(server.client()) as admin:
            admin.config_set("requirepass", "secret")
        port = free_port()
        process = await start_command("serve", "tiny=slow", "--port", str(port), "--queue", url, stderr=DEVNULL)
        daemon = Daemon(process, port)
        try:
            await until_ready(daemon)
            stream = Stream(daemon, "serve")
            await stream.until_begun()
            pid = await daemon.busy_worker()
            assert not any("secret" in word for word in psutil.Process(pid).cmdline())
            os.kill(pid, signal.SIGKILL)
            await stream.assert_exact()
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
        finally:
            await daemon.client.aclose()
            if process.returncode is None:
                process.kill()
            await process.wait()
