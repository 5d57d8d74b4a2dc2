"""What the gateway adds: streamed chunks a second through one process, and how late each is, without any engine.

    python -m benchmarks.gateway_overhead [--peer VENV] [--streams 64] [--tokens 1024] [--rounds 9]

A real `glimpsed gateway` and, over its real queue, fake workers that compute nothing (null_worker.py). With --peer also
the HTTP layer of `transformers serve` round an equally null engine (null_peer.py); VENV as for benchmarks.peer. Both
run all the time and are measured in turns, so that what else the machine does meets both alike.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.daemon import free_port, wait_until
from benchmarks.raw_client import Stream, stream_all
from benchmarks.report import write_report
from server.loadgen import percentile

TOKEN_S = 0.02
"""Between two tokens of a paced answer: 50 a second."""
PACED_TOKENS = 128
NUM_ALONE = 200
FREE, PACED = "null", f"paced-{TOKEN_S}"
HEADER = (
    "server", "chunks/s", "ratio", "CPU ms per 1,000 chunks", "paced: CPU ms per 1,000 chunks",
    "added latency p50 ms", "p99 ms", "TTFT alone p50 ms", "p99 ms",
)  # fmt: skip


@dataclass(frozen=True)
class Server:
    """A server with the models FREE and PACED. process: the one that speaks HTTP."""

    name: str
    port: int
    process: psutil.Process


@dataclass(frozen=True)
class Figures:
    """What was measured of a server in one round. Milliseconds but for the first; CPU for 1,000 chunks."""

    chunks_per_s: float
    cpu_ms: float
    paced_cpu_ms: float
    delay_p50_ms: float
    delay_p99_ms: float
    alone_p50_ms: float
    alone_p99_ms: float


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--peer", type=Path, help="environment with transformers[serving]")
    args.add_argument("--streams", type=int, default=64)
    args.add_argument("--tokens", type=int, default=1024, help="of an answer, where they come as fast as they can")
    args.add_argument("--rounds", type=int, default=9, help="how often each server is measured")
    asked = args.parse_args()
    load = os.getloadavg()[0]
    with contextlib.ExitStack() as running:
        servers = [running.enter_context(serve_ours())]
        if asked.peer is not None:
            servers.append(running.enter_context(serve_peer(asked.peer)))
        rounds = measure_in_turns(servers, asked.streams, asked.tokens, asked.rounds)
    # Round by round against the last server: what disturbed one half of a round disturbed the other as well.
    ratios = [
        [one.chunks_per_s / last.chunks_per_s for one, last in zip(figures, rounds[-1], strict=True)]
        for figures in rounds
    ]
    rows = [
        (server.name, round(figures.chunks_per_s), statistics.median(ratio), *astuple(figures)[1:])
        for server, figures, ratio in zip(servers, map(median, rounds), ratios, strict=True)
    ]
    offered = asked.streams / TOKEN_S
    notes = f"""
{asked.streams} streams. Medians of {asked.rounds} rounds in which the servers took turns; the ratio is the median of
the rounds' ratios, {min(ratios[0]):.3g} to {max(ratios[0]):.3g}. Chunks/s: tokens come as fast as they are taken. CPU:
of the process that speaks HTTP. Added latency: at {offered:.0f} chunks/s, {1 / TOKEN_S:.0f} a stream, from the moment
when the engine gives a token away until its client has the chunk. TTFT: one client, from its request to the first chunk
with text.

Ours has a queue's socket between engine and gateway, and its engine is a process beside it; the peer's null engine runs
inside the HTTP process, and none of its model, tokenizer and thread. Load generator, server and engine share the cores.
Load average before: {load:.1f}. Where other programs had the cores as well, only CPU and ratio are to be trusted.
"""
    write_report("gateway_overhead", "What the gateway adds", notes, HEADER, rows)


def measure_in_turns(
    servers: Sequence[Server], num_streams: int, num_tokens: int, num_rounds: int
) -> list[list[Figures]]:
    """Each server's figures, round by round; who comes first changes. Raises RuntimeError where one lost a token."""
    for server in servers:
        for model in (FREE, PACED):
            asyncio.run(stream_all(server.port, model, num_streams, 1, PACED_TOKENS))
    rounds: list[list[Figures]] = [[] for _ in servers]
    for number in range(num_rounds):
        places = range(len(servers))
        for place in places if number % 2 == 0 else reversed(places):
            rounds[place].append(measure(servers[place], num_streams, num_tokens))
    return rounds


def measure(server: Server, num_streams: int, num_tokens: int) -> Figures:
    """One server's figures in one round. Raises RuntimeError where it lost a token."""
    wall_s, cpu_s, free = _load(server, FREE, num_streams, num_tokens)
    _, paced_cpu_s, paced = _load(server, PACED, num_streams, PACED_TOKENS)
    alone_ms = [one.first_ns() / 1e6 for one in asyncio.run(stream_all(server.port, FREE, 1, NUM_ALONE, 1))]
    delays_ms = [delay / 1e6 for stream in paced for delay in stream.delays_ns()]
    return Figures(
        chunks_per_s=len(free) * num_tokens / wall_s,
        cpu_ms=cpu_s / (len(free) * num_tokens) * 1e6,
        paced_cpu_ms=paced_cpu_s / len(delays_ms) * 1e6,
        delay_p50_ms=percentile(delays_ms, 50),
        delay_p99_ms=percentile(delays_ms, 99),
        alone_p50_ms=percentile(alone_ms, 50),
        alone_p99_ms=percentile(alone_ms, 99),
    )


def median(rounds: Sequence[Figures]) -> Figures:
    """Of each figure by itself."""
    return Figures(*map(statistics.median, zip(*map(astuple, rounds), strict=True)))


def _load(server: Server, model: str, num_streams: int, num_tokens: int) -> tuple[float, float, list[Stream]]:
    """Wall time, CPU time of the server, and what came. Raises RuntimeError where a token is missing."""
    cpu_s, began = _cpu_s(server.process), time.perf_counter()
    streams = asyncio.run(stream_all(server.port, model, num_streams, 1, num_tokens))
    wall_s, cpu_s = time.perf_counter() - began, _cpu_s(server.process) - cpu_s
    num_chunks = sum(len(stream.delays_ns()) for stream in streams)
    if num_chunks != num_streams * num_tokens:
        raise RuntimeError(f"{server.name}: {num_chunks} chunks instead of {num_streams * num_tokens}")
    return wall_s, cpu_s, streams


@contextlib.contextmanager
def serve_ours() -> Iterator[Server]:
    """A gateway and a worker of each model."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        queue = ["--queue", f"ipc://{folder}/queue/socket", "--log-level", "warning"]
        options = ["--port", str(port), "--data-dir", f"{folder}/data", *queue]
        gateway = running.enter_context(_process([sys.executable, "-m", "server.cli", "gateway", *options]))
        for name, token_s in ((FREE, 0.0), (PACED, TOKEN_S)):
            command = [sys.executable, "-m", "benchmarks.null_worker", str(token_s), "--served-name", name, *queue]
            running.enter_context(_process([*command, "--max-num-seqs", "1024"]))
        wait_until(lambda: _models(port) == {FREE, PACED}, gateway)
        yield Server("glimpsed gateway", port, psutil.Process(gateway.pid))


@contextlib.contextmanager
def serve_peer(venv: Path) -> Iterator[Server]:
    """The library's HTTP layer."""
    port = free_port()
    script = Path(__file__).parent / "null_peer.py"
    with tempfile.TemporaryFile() as log, _process([venv / "bin" / "python", script, str(port)], log.fileno()) as peer:
        wait_until(lambda: _models(port) is not None, peer)
        yield Server("transformers serve, HTTP layer", port, psutil.Process(peer.pid))


@contextlib.contextmanager
def _process(command: Sequence[str | Path], log: int | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _models(port: int) -> set[str] | None:
    try:
        return {model["id"] for model in httpx.get(f"http://127.0.0.1:{port}/v1/models").json()["data"]}
    except httpx.TransportError:
        return None


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    main()
