"""`glimpsed serve` with scripted workers as a process of its own, for tests over HTTP."""

import asyncio
import json
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.ports import free_port

PATIENCE_S = 60.0
ROOT = Path(__file__).parents[2]


class Daemon:
    """A running daemon and a client for it."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S)

    async def until_ready(self) -> None:
        """Wait for /readyz to say so."""
        await self.until_status(200)

    async def until_status(self, status: int) -> None:
        """Wait for /readyz to answer with this status."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.readiness() != status:
                await asyncio.sleep(0.02)

    async def readiness(self) -> int | None:
        """The status that /readyz answers with; None where nobody listens."""
        try:
            return (await self.client.get("/readyz")).status_code
        except httpx.TransportError:
            return None

    async def workers(self) -> list[dict[str, Any]]:
        """As /admin/workers tells."""
        return (await self.client.get("/admin/workers")).json()["workers"]

    async def busy_worker(self) -> int:
        """The pid of a worker that runs something, once there is one."""
        async with asyncio.timeout(PATIENCE_S):
            while not (busy := [worker for worker in await self.workers() if worker["running"]]):
                await asyncio.sleep(0.02)
        return int(busy[0]["pid"])

    async def chunks(self, prompt: str, **options: Any) -> AsyncIterator[dict[str, Any]]:
        """The events of a streamed chat; the last one is {"done": True} if the stream ended as it should."""
        body = {
            "model": "tiny",
            "messages": [{"role": "user", "content": prompt}],
            "stream": True,
            "seed": 7,
            **options,
        }
        async with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                yield {"status": response.status_code, **json.loads(await response.aread())}
                return
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    yield {"done": True}
                elif line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    async def exit_code(self) -> int:
        """Wait for the process's end."""
        return await asyncio.wait_for(self.process.wait(), PATIENCE_S)


def text_of(chunk: dict[str, Any]) -> str:
    """What a chunk adds to the answer."""
    return "".join(choice["delta"].get("content") or "" for choice in chunk.get("choices", []))


async def start_command(*arguments: str, stderr: int = PIPE) -> Process:
    """`glimpsed ARGUMENTS` with scripted workers."""
    argv = [sys.executable, "-m", "tests.fakes.scripted_daemon", *arguments]
    return await asyncio.create_subprocess_exec(*argv, cwd=ROOT, stdin=DEVNULL, stdout=PIPE, stderr=stderr)


async def run_command(*arguments: str) -> tuple[int, str, str]:
    """Run a command to its end: exit code, stdout, stderr."""
    process = await start_command(*arguments)
    out, error = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    return process.returncode or 0, out.decode(), error.decode()


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[Daemon]:
    """A daemon on a free port; killed at the end if it has not left by itself."""
    port = free_port()
    with tempfile.TemporaryFile() as log:
        process = await start_command("serve", "--port", str(port), *arguments, stderr=log.fileno())
        daemon = Daemon(process, port)
        try:
            await daemon.until_ready()
            yield daemon
        except BaseException:
            log.seek(0)
            print(log.read().decode(), file=sys.stderr)
            raise
        finally:
            await daemon.client.aclose()
            if process.returncode is None:
                process.kill()
            # Not `wait` alone: the transport's pipe is only closed once what it holds has been read.
            await process.communicate()
