"""What the gateway adds: streamed chunks a second through one process, and how late each is, without any engine.

    python -m benchmarks.gateway_overhead [--peer VENV] [--streams 64] [--tokens 512] [--rounds 4]

A real `glimpsed gateway` and, over its real queue, fake workers that compute nothing (null_worker.py). With --peer also
the HTTP layer of `transformers serve` round an equally null engine (null_peer.py); VENV as for benchmarks.peer.
"""

import argparse
import asyncio
import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.daemon import free_port, wait_until
from benchmarks.raw_client import stream_all
from benchmarks.report import write_report
from server.loadgen import percentile

TOKEN_S = 0.02
"""Between two tokens of a paced answer: 50 a second."""
PACED_TOKENS = 256
NUM_ALONE = 200
FREE, PACED = "null", f"paced-{TOKEN_S}"


@dataclass(frozen=True)
class Server:
    """A server with the models FREE and PACED. process: the one that speaks HTTP."""

    name: str
    port: int
    process: psutil.Process


@dataclass(frozen=True)
class Figures:
    """What was measured of a server. Times in seconds but for cpu_us."""

    chunks_per_s: float
    cpu_us_per_chunk: float
    delay_p50_s: float
    delay_p99_s: float
    alone_p50_s: float
    alone_p99_s: float


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--peer", type=Path, help="environment with transformers[serving]")
    args.add_argument("--streams", type=int, default=64)
    args.add_argument("--tokens", type=int, default=512, help="of an answer, where they come as fast as they can")
    args.add_argument("--rounds", type=int, default=4, help="answers of each stream's client")
    asked = args.parse_args()
    load = os.getloadavg()[0]
    with serve_ours() as server:
        ours = measure(server, asked.streams, asked.rounds, asked.tokens)
    rows = [row("glimpsed gateway", ours, math.nan)]
    if asked.peer is not None:
        with serve_peer(asked.peer) as server:
            theirs = measure(server, asked.streams, asked.rounds, asked.tokens)
        rows[0] = row("glimpsed gateway", ours, ours.chunks_per_s / theirs.chunks_per_s)
        rows.append(row("transformers serve, HTTP layer", theirs, 1.0))
    header = ["server", "chunks/s", "ratio", "CPU us a chunk", "added latency p50 ms", "p99 ms", "TTFT alone p50 ms",
              "p99 ms"]  # fmt: skip
    offered = asked.streams / TOKEN_S
    notes = f"""
{asked.streams} streams. Chunks/s: tokens come as fast as they are taken. CPU: of the process that speaks HTTP, in that
run. Added latency: at {offered:.0f} chunks/s, {1 / TOKEN_S:.0f} a stream, from the moment when the engine gives a token
away until its client has the chunk. TTFT: one client, from its request to the first chunk with text.

Ours has a queue's socket between engine and gateway, and its engine is a process beside it; the peer's null engine runs
inside the HTTP process, and none of its model, tokenizer and thread. Load generator, server and engine share the cores.
Load average before: {load:.1f}. Where other programs had the cores as well, only CPU a chunk is to be trusted.
"""
    write_report("gateway_overhead", "What the gateway adds", notes, header, rows)


def row(name: str, figures: Figures, ratio: float) -> Sequence[object]:
    """A line of the table."""
    times = (figures.delay_p50_s, figures.delay_p99_s, figures.alone_p50_s, figures.alone_p99_s)
    shown = "" if math.isnan(ratio) else ratio
    return (name, round(figures.chunks_per_s), shown, figures.cpu_us_per_chunk, *(time_s * 1e3 for time_s in times))


def measure(server: Server, num_streams: int, num_rounds: int, num_tokens: int) -> Figures:
    """One server's figures. Raises RuntimeError where it lost a token."""
    asyncio.run(stream_all(server.port, FREE, num_streams, 1, num_tokens))
    cpu_s, began = _cpu_s(server.process), time.perf_counter()
    free = asyncio.run(stream_all(server.port, FREE, num_streams, num_rounds, num_tokens))
    wall_s, cpu_s = time.perf_counter() - began, _cpu_s(server.process) - cpu_s
    num_chunks = sum(len(stream.delays_ns()) for stream in free)
    if num_chunks != num_streams * num_rounds * num_tokens:
        raise RuntimeError(f"{server.name}: {num_chunks} chunks instead of {num_streams * num_rounds * num_tokens}")
    paced = asyncio.run(stream_all(server.port, PACED, num_streams, 1, PACED_TOKENS))
    delays_s = [delay / 1e9 for stream in paced for delay in stream.delays_ns()]
    alone_s = [stream.first_ns() / 1e9 for stream in asyncio.run(stream_all(server.port, FREE, 1, NUM_ALONE, 1))]
    return Figures(
        chunks_per_s=num_chunks / wall_s,
        cpu_us_per_chunk=cpu_s / num_chunks * 1e6,
        delay_p50_s=percentile(delays_s, 50),
        delay_p99_s=percentile(delays_s, 99),
        alone_p50_s=percentile(alone_s, 50),
        alone_p99_s=percentile(alone_s, 99),
    )


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
        yield Server("transformers serve", port, psutil.Process(peer.pid))


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
