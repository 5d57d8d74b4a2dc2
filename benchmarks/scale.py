"""Jobs a second and added latency over 1, 4, 16 and 64 workers, one gateway or more, and whose CPU time it costs.

    python -m benchmarks.scale [--workers 1,4,16,64] [--transports local,redis] [--gateways 1]

The workers are simulated: real ones, but for an engine that holds each job for a while and computes nothing, and many
of them in one process. Gateways and queue are the product; Redis is a server that the program starts.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil

from benchmarks.crowd import Crowd, crowd
from benchmarks.daemon import Daemon
from benchmarks.raw_client import Stream, stream_all
from benchmarks.report import write_report
from server.loadgen import percentile
from tests.fakes.redis_server import redis_server

MODEL = "null"
HOLD_S = 0.05
"""What a job takes at its worker."""
SEATS = 8
MAX_WORKERS_PER_PROCESS = 32
CLIENTS_PER_SEAT = 2
MAX_CLIENTS = 384
FEW_CLIENTS = 4
"""So few that nothing waits: what they see beyond HOLD_S is what the way to the worker and back adds."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run. Latencies in seconds; CPU in seconds a job, of all processes of a kind."""

    jobs_per_s: float
    few_p50_s: float
    few_p99_s: float
    cpu_s: dict[str, float]


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--workers", default="1,4,16,64", help="numbers of workers")
    args.add_argument("--transports", default="local,redis")
    args.add_argument("--gateways", type=int, default=1, help="with Redis; the local queue has one")
    args.add_argument("--seconds", type=float, default=8.0, help="of each run under load, about")
    asked = args.parse_args()
    load = os.getloadavg()[0]
    rows = []
    for transport in asked.transports.split(","):
        for num_workers in map(int, asked.workers.split(",")):
            num_gateways = asked.gateways if transport == "redis" else 1
            rows.append((transport, num_gateways, num_workers, *measured(transport, num_workers, num_gateways, asked)))
            print(*rows[-1], flush=True)
    hold_ms = HOLD_S * 1e3
    notes = f"""
Simulated workers with {SEATS} seats each; the engine holds a job for {hold_ms:.0f} ms and answers with one token: a
worker can do {SEATS / HOLD_S:.0f} jobs a second. Jobs/s: {CLIENTS_PER_SEAT} clients for each seat, {MAX_CLIENTS} at
most, each with one streamed request after another. Added latency: {FEW_CLIENTS} clients, from the request to the first
chunk, less the {hold_ms:.0f} ms. CPU: what a job costs each kind of process, in ms of one core.

Clients, gateways, workers and Redis share the cores. Load average before: {load:.1f}. Where other programs had the
cores as well, only CPU a job is to be trusted.
"""
    header = ["queue", "gateways", "workers", "jobs/s", "of what the workers can", "added latency p50 ms", "p99 ms",
              "CPU gateways", "CPU workers", "CPU Redis", "CPU clients"]  # fmt: skip
    write_report("scale", "Many workers", notes, header, rows)


def measured(transport: str, num_workers: int, num_gateways: int, asked: argparse.Namespace) -> Sequence[object]:
    """The figures of one number of workers, as shown; or that it failed, so that the others are not lost with it."""
    try:
        figures = run(transport, num_workers, num_gateways, asked.seconds)
    except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
        print(f"{transport}, {num_workers} workers: {error}", file=sys.stderr)
        return ["failed", *[""] * 7]
    share = f"{figures.jobs_per_s * HOLD_S / (num_workers * SEATS):.0%}"
    cpu = [
        f"{cpu_s * 1e3:.2f}" if kind != "redis" or transport == "redis" else "" for kind, cpu_s in figures.cpu_s.items()
    ]
    latency = [f"{value * 1e3:.1f}" for value in (figures.few_p50_s, figures.few_p99_s)]
    return [round(figures.jobs_per_s), share, *latency, *cpu]


def run(transport: str, num_workers: int, num_gateways: int, seconds: float) -> Figures:
    """One number of workers. Raises RuntimeError when they do not get ready, others where an answer does not come."""
    names = [MODEL] * num_workers
    groups = [
        names[first : first + MAX_WORKERS_PER_PROCESS] for first in range(0, num_workers, MAX_WORKERS_PER_PROCESS)
    ]
    with tempfile.TemporaryDirectory(prefix="gl") as folder, contextlib.ExitStack() as stack:
        queue, redis = stack.enter_context(_queue(transport, folder))
        flags = [["--data-dir", f"{folder}/data-{number}"] for number in range(num_gateways)]
        found = stack.enter_context(crowd(["null", str(HOLD_S)], groups, SEATS, queue, flags))
        return asyncio.run(measure(found, redis, num_workers, seconds))


async def measure(found: Crowd, redis: list[psutil.Process], num_workers: int, seconds: float) -> Figures:
    """The figures of workers that are there."""
    num_clients = min(MAX_CLIENTS, CLIENTS_PER_SEAT * SEATS * num_workers)
    pilot, pilot_s = await _load(found.gateways, num_clients, 2)
    num_rounds = max(2, round(seconds / pilot_s * len(pilot) / num_clients))
    kinds = {
        "gateways": [gateway.gateway for gateway in found.gateways],
        "workers": found.processes,
        "redis": redis,
        "clients": [psutil.Process()],
    }
    before = {kind: _cpu_s(processes) for kind, processes in kinds.items()}
    streams, wall_s = await _load(found.gateways, num_clients, num_rounds)
    cpu_s = {kind: (_cpu_s(processes) - before[kind]) / len(streams) for kind, processes in kinds.items()}
    few, _ = await _load(found.gateways, FEW_CLIENTS, max(10, round(seconds / 2 / HOLD_S)))
    added_s = [stream.first_ns() / 1e9 - HOLD_S for stream in few]
    return Figures(len(streams) / wall_s, percentile(added_s, 50), percentile(added_s, 99), cpu_s)


async def _load(gateways: Sequence[Daemon], num_clients: int, num_rounds: int) -> tuple[list[Stream], float]:
    """So many clients, spread over the gateways, each with so many requests; what came, and how long it took."""
    began_s = time.perf_counter()
    shares = [num_clients // len(gateways) + (number < num_clients % len(gateways)) for number in range(len(gateways))]
    answered = await asyncio.gather(
        *(
            stream_all(urlsplit(gateway.url).port or 0, MODEL, share, num_rounds, 1)
            for gateway, share in zip(gateways, shares, strict=True)
        )
    )
    wall_s = time.perf_counter() - began_s
    streams = [stream for some in answered for stream in some]
    for stream in streams:
        stream.first_ns()
    return streams, wall_s


@contextlib.contextmanager
def _queue(transport: str, folder: str) -> Iterator[tuple[str, list[psutil.Process]]]:
    """The value of --queue, and the processes that it is made of."""
    if transport == "local":
        yield f"ipc://{folder}/queue/socket", []
        return
    with redis_server() as server, contextlib.closing(server.client()) as client:
        yield server.url, [psutil.Process(int(client.info("server")["process_id"]))]


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


if __name__ == "__main__":
    main()
