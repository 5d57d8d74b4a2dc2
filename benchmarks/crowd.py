"""Many workers in one process, each with a connection of its own, round fake engines; and gateways for them.

    python -m benchmarks.crowd ENGINE FIGURE QUEUE SEATS NAME ...

A worker of each NAME (which may be there several times). ENGINE null: an answer's tokens come FIGURE seconds apart and
nothing is computed (null_worker.py); paged: real pages, FIGURE of them a worker, and no model (paged_engine.py). All
else is the product: the worker's loop, its end of the queue, the gateway.
"""

import asyncio
import contextlib
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import psutil

from benchmarks.daemon import Daemon, free_port, wait_until
from benchmarks.null_worker import NullHandler
from benchmarks.paged_engine import PagedHandler
from schemas.control import Hello
from workers.__main__ import open_source
from workers.handlers.base import JobHandler
from workers.worker import Worker


@dataclass(frozen=True, slots=True)
class Crowd:
    """Gateways and the processes that hold their workers."""

    gateways: list[Daemon]
    processes: list[psutil.Process]


@contextlib.contextmanager
def crowd(
    engine: Sequence[str], names: Sequence[Sequence[str]], seats: int, queue: str, gateways: Sequence[Sequence[str]]
) -> Iterator[Crowd]:
    """Gateways, each with more flags, and a process for each list of workers' names; all know each other.

    engine: ENGINE and FIGURE. Raises RuntimeError when they do not get ready.
    """
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(_gateway([*flags, "--queue", queue])) for flags in gateways]
        workers = [
            stack.enter_context(_process(["benchmarks.crowd", *engine, queue, str(seats), *some])) for some in names
        ]
        num_workers = sum(map(len, names))
        for gateway in found:
            wait_until(partial(_has_workers, gateway, num_workers), gateway.process)
        yield Crowd(found, [psutil.Process(worker.pid) for worker in workers])


async def live(engine: str, figure: str, queue: str, seats: str, *names: str) -> None:
    """All workers' lives, until SIGTERM."""
    workers = []
    for number, name in enumerate(names):
        handler: JobHandler
        handler = NullHandler(name, float(figure)) if engine == "null" else PagedHandler(name, int(figure))
        worker_id = f"crowd-{os.getpid()}-{number}"
        hello = Hello(worker_id=worker_id, pid=os.getpid(), card=handler.card, host=platform.node(), seats=int(seats))
        workers.append(Worker(open_source(queue), handler, hello, int(seats)))

    def drain() -> None:
        for worker in workers:
            worker.drain()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, drain)
    await asyncio.gather(*(worker.run() for worker in workers))


@contextlib.contextmanager
def _gateway(flags: Sequence[str]) -> Iterator[Daemon]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with _process(["server.cli", "gateway", "--port", str(port), "--log-level", "warning", *flags]) as process:
        gateway = Daemon(process, url, ready_s=0.0)
        wait_until(partial(_has_workers, gateway, 0), process)
        yield gateway


@contextlib.contextmanager
def _process(module_and_arguments: Sequence[str | Path]) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-m", *module_and_arguments])
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _has_workers(gateway: Daemon, num_workers: int) -> bool:
    try:
        return len(gateway.admin()) == num_workers
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    asyncio.run(live(*sys.argv[1:]))
