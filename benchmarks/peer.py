"""Beside the library's own server: `transformers serve` and this daemon, equal sizes, the same load, one run.

    python -m benchmarks.peer --peer VENV [--dtypes float32,bfloat16] [--tiles 1,13] [--requests 16]

VENV holds transformers[serving] (see benchmarks/README.md). Per line: the peer, then ours, with 1 and with 16 clients,
64 tokens an answer, a different picture in every request. Only the ratios travel to other machines.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.daemon import free_port, serve, wait_until
from benchmarks.make_checkpoint import write_checkpoint
from benchmarks.report import write_report
from server.loadgen import Load, Report, run_load

TOKENS = 64
CLIENTS = (1, 16)
PICTURES = {1: (320, 240), 13: (640, 480)}
"""Tiles a picture makes -> its size; a 4:3 picture is cut into 12 tiles and a thumbnail."""


@dataclass(frozen=True)
class Setting:
    """What both servers are started with."""

    dtype: str
    tiles: int

    @property
    def max_tiles(self) -> int:
        return 1 if self.tiles == 1 else self.tiles - 1


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--peer", type=Path, required=True)
    args.add_argument("--dtypes", default="float32,bfloat16")
    args.add_argument("--tiles", default="1,13")
    args.add_argument("--requests", type=int, default=16, help="requests with 16 clients; with one client, a quarter")
    asked = args.parse_args()
    rows: list[Sequence[object]] = []
    for tiles in (int(number) for number in asked.tiles.split(",")):
        for dtype in asked.dtypes.split(","):
            setting = Setting(dtype, tiles)
            with tempfile.TemporaryDirectory() as folder:
                theirs = measure_peer(asked.peer, Path(folder), setting, asked.requests)
                ours = measure_ours(Path(folder) / "ours", setting, asked.requests)
            rows += [compare(setting, their, our) for their, our in zip(theirs, ours, strict=True)]
    header = ["tiles", "dtype", "clients", "peer tok/s", "ours tok/s", "ratio", "peer TTFT p50 s", "ours TTFT p50 s",
              "ratio", "prompt tokens peer / ours", "errors"]  # fmt: skip
    notes = "Peer: transformers serve --continuous-batching, 88 M-parameter InternVL; ours: equal sizes, dummy weights."
    write_report("peer", "Beside transformers serve", notes, header, rows)


def compare(setting: Setting, their: Report, our: Report) -> Sequence[object]:
    """One row."""
    return (
        setting.tiles,
        setting.dtype,
        our.clients,
        their.tokens_per_s,
        our.tokens_per_s,
        our.tokens_per_s / their.tokens_per_s,
        their.ttft_p50_s,
        our.ttft_p50_s,
        our.ttft_p50_s / their.ttft_p50_s,
        f"{their.prompt_tokens:.0f} / {our.prompt_tokens:.0f}",
        their.errors + our.errors,
    )


def measure_ours(folder: Path, setting: Setting, num_requests: int) -> list[Report]:
    write_checkpoint(folder, 768, 10, 384, 8, 224, setting.max_tiles)
    with serve([f"ours={folder}", "--load-format", "dummy", "--dtype", setting.dtype]) as daemon:
        return run_loads(daemon.base_url, "ours", setting, num_requests, {"ignore_eos": True})


def measure_peer(venv: Path, folder: Path, setting: Setting, num_requests: int) -> list[Report]:
    script = Path(__file__).parent / "peer_checkpoint.py"
    checkpoint = folder / "theirs"
    subprocess.run([venv / "bin" / "python", script, checkpoint, "--tiles", str(setting.max_tiles)], check=True)
    with serve_peer(venv, checkpoint, setting.dtype) as url:
        return run_loads(url, str(checkpoint), setting, num_requests, {})


def run_loads(url: str, model: str, setting: Setting, num_requests: int, extra: dict[str, bool]) -> list[Report]:
    """With one client, then with many; a short warm-up before. The peer's checkpoint has no end token to ignore."""

    def load(clients: int, requests: int) -> Load:
        return Load(url, model, clients, requests, TOKENS, [PICTURES[setting.tiles]], extra=extra)

    asyncio.run(run_load(load(1, 1)))
    one, many = CLIENTS
    single, _ = asyncio.run(run_load(load(one, max(2, num_requests // 4))))
    batched, _ = asyncio.run(run_load(load(many, num_requests)))
    return [single, batched]


@contextlib.contextmanager
def serve_peer(venv: Path, checkpoint: Path, dtype: str) -> Iterator[str]:
    """`transformers serve` on a free port."""
    port = free_port()
    command: list[str | Path] = [
        venv / "bin" / "transformers", "serve", checkpoint, "--port", str(port), "--device", "cpu", "--dtype", dtype,
        "--continuous-batching",
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count()), "HF_HUB_OFFLINE": "1"}
    with open(checkpoint.parent / "peer.log", "wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(url), process)
        yield f"{url}/v1"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code < 500
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
