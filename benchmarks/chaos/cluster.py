"""The system under test as it is over several hosts: a Redis that writes a file, gateways and workers, all processes of
their own, each of which reaches Redis by a link that can be cut. Nobody sees a process of another host end."""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from benchmarks.chaos import rest
from benchmarks.chaos.faults import PATIENCE_S, Fleet, watched
from benchmarks.daemon import READY_S, Daemon, free_port
from benchmarks.guard import dying_with_us
from tests.fakes.proxy import Proxy
from tests.fakes.redis_server import EVERY_SECOND, RedisServer, redis_server

MODEL = "cell"
NUM_GATEWAYS = NUM_WORKERS = 2
POLL_S = 0.05


class Host:
    """A process and its link to Redis. process_group: where it belongs."""

    def __init__(
        self,
        arguments: Sequence[str],
        link: Proxy,
        environment: Mapping[str, str],
        log: IO[bytes],
        process_group: int,
        url: str = "",
    ) -> None:
        self.link = link
        self.url = url
        self._environment = environment
        self._log = log
        self._process_group = process_group
        self._command = [sys.executable, "-m", "benchmarks.chaos.fake_daemon", *arguments]
        self._command += ["--queue", link.url, "--log-level", "warning"]
        self.start()

    def start(self) -> None:
        """Returns at once."""
        self.process = subprocess.Popen(
            self._command, env=self._environment, stderr=self._log, process_group=self._process_group
        )

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def num_files(self) -> int:
        """Files and pipes open. Not sockets: they come and go with clients, and those to Redis are kept for later."""
        found = 0
        for file in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found += not os.readlink(file).startswith("socket:")
        return found


@dataclass(frozen=True, slots=True)
class Cluster:
    """All hosts. clients, fleets: of each gateway. folder: for the processes' temporary files. token_s: the pace at
    which workers answer."""

    redis: RedisServer
    gateways: list[Host]
    workers: list[Host]
    clients: list[httpx.AsyncClient]
    fleets: list[Fleet]
    folder: Path
    token_s: float

    async def whole(self, patience_s: float = PATIENCE_S) -> None:
        """Wait until each gateway knows every worker, and no other. Raises TimeoutError."""
        pids = {worker.process.pid for worker in self.workers}
        async with asyncio.timeout(patience_s):
            while any(fleet.pids(MODEL) != pids for fleet in self.fleets):
                await asyncio.sleep(POLL_S)

    async def idle(self, place: int) -> None:
        """Wait until no worker does anything, as one gateway tells. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE_S):
            while any(one["running"] for one in (await self.clients[place].get("/admin/workers")).json()["workers"]):
                await asyncio.sleep(POLL_S)

    def figures(self) -> dict[str, float]:
        """What all hold now."""
        with contextlib.closing(self.redis.client()) as client:
            figures = rest.of_redis(client, [MODEL])
        # A process that stood still may be without its own for a moment.
        figures["mailboxes"] = max(0.0, figures["mailboxes"] - len(self.gateways) - len(self.workers))
        for place, gateway in enumerate(self.gateways):
            of_gateway = rest.of_daemon(Daemon(gateway.process, gateway.url, 0.0), self.folder)
            of_gateway["files open in the gateway"] = gateway.num_files()
            figures |= {f"{name}, gateway {place}": value for name, value in of_gateway.items()}
        return figures | {"files open in a worker": max(worker.num_files() for worker in self.workers)}


@asynccontextmanager
async def cluster(log: IO[bytes], token_s: float) -> AsyncIterator[Cluster]:
    """A running cluster, whole. log: for the processes' stderr. token_s: the fake engine's pace."""
    with (
        dying_with_us() as group,
        redis_server(options=EVERY_SECOND, process_group=group) as redis,
        tempfile.TemporaryDirectory(prefix="gl") as parent,
    ):
        folder = Path(parent) / "tmp"
        folder.mkdir()
        async with AsyncExitStack() as stack:

            async def host(place: int, arguments: Sequence[str], url: str = "") -> Host:
                link = await stack.enter_async_context(Proxy(redis.port))
                state = {"TMPDIR": str(folder), "XDG_STATE_HOME": f"{parent}/state-{place}"}
                host = Host(arguments, link, {**os.environ, **state}, log, group, url)
                stack.callback(host.kill)
                return host

            ports = [free_port() for _ in range(NUM_GATEWAYS)]
            gateways = [
                await host(place, ["gateway", "--port", str(port)], f"http://127.0.0.1:{port}")
                for place, port in enumerate(ports)
            ]
            worker = ["worker", "fake", "--served-name", MODEL, "--model-option", f"token_s={token_s}"]
            workers = [await host(NUM_GATEWAYS + place, worker) for place in range(NUM_WORKERS)]
            seen = [await stack.enter_async_context(watched(gateway.url)) for gateway in gateways]
            clients, fleets = [client for client, _ in seen], [fleet for _, fleet in seen]
            whole = Cluster(redis, gateways, workers, clients, fleets, folder, token_s)
            await whole.whole(READY_S)
            yield whole
