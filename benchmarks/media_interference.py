"""What running text streams feel of a request with 16 pictures or a clip of 64 frames.

    python -m benchmarks.media_interference [--streams 4] [--requests 6] [--models glimpsed-demo dummy-88m]

Text streams run all the time; requests with media come one after another, from a process of their own: a client that
sends megabytes itself does not see its tokens in time. Time between tokens is compared: of the streams alone, and of
those of their tokens that came while a request with media was being sent, prepared or answered. And, to tell what is
the machine's: while another program computes, which asks nothing of the daemon, so that a second core is busy.

Of the demo model, whose steps take a few milliseconds, most of which is dispatch; and, with one request of each kind,
of a dummy InternVL of about 88 M parameters, whose steps compute.
"""

import argparse
import asyncio
import base64
import http.client
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks.daemon import Daemon, serve
from benchmarks.make_checkpoint import write_checkpoint
from benchmarks.report import write_report
from benchmarks.sample_media import moving_clip, photograph
from server.loadgen import chat_body, percentile

MODELS = ("glimpsed-demo", "dummy-88m")
ALONE_S = 8.0
PAUSE_S = 0.5
STREAM_TOKENS = 1500


@dataclass
class Watched:
    """Moments of tokens, by stream, and the spans in which a request with media was under way."""

    tokens: list[list[float]] = field(default_factory=list)
    spans: list[tuple[float, float]] = field(default_factory=list)

    def gaps_s(self, spans: Sequence[tuple[float, float]]) -> list[float]:
        """Between tokens that follow each other, where the later one or the wait for it lies in one of the spans."""
        pairs = [pair for stream in self.tokens for pair in zip(stream, stream[1:], strict=False)]
        return [b - a for a, b in pairs if any(begin < b and a < end for begin, end in spans)]


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--streams", type=int, default=4)
    args.add_argument("--requests", type=int, default=6)
    args.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    asked = args.parse_args()
    kinds = {
        "16 pictures, 1920x1080": [
            [_part("image", "jpeg", photograph(1920, 1080, 100 * number + seed)) for seed in range(16)]
            for number in range(asked.requests)
        ],
        "a clip, 1280x720, 64 frames": [
            [_part("video", "mp4", moving_clip(1280, 720, 10, number))] for number in range(asked.requests)
        ],
    }
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        write_checkpoint(checkpoint, 768, 10, 384, 8, 224, tiles=1)
        dummy = [f"dummy-88m={checkpoint}", "--load-format", "dummy"]
        for model in asked.models:
            arguments, num_requests = (dummy, 1) if model == "dummy-88m" else ([], asked.requests)
            for name, requests in kinds.items():
                with serve([*arguments, "--max-body-size", "128MiB"]) as daemon:
                    files = [Path(folder) / str(number) for number in range(num_requests)]
                    for file, parts in zip(files, requests, strict=False):
                        file.write_bytes(_body(model, parts, 2, f"Request {file.name}."))
                    post(daemon.base_url, _body(model, requests[0][:1], 2))
                    rows += asyncio.run(measure(daemon, model, name, files, asked.streams))
    notes = (
        f"{asked.streams} text streams of {STREAM_TOKENS} tokens, each begun a part of that after the other. Media "
        "differ from request to request, and are sent as data URLs by another process than the one that reads the "
        "streams. Tokens that bring no text of their own come with the next: a gap of two steps is usual. Another "
        "program that computes: a loop that asks nothing of the daemon; what its row is over 1 is how much slower this "
        "machine's cores are when both are busy."
    )
    header = ["model", "while running", "p50 ms", "p99 ms", "p99 over alone", "longest ms", "tokens", "answered in s"]
    write_report("media_interference", "Text streams beside media", notes, header, rows)


async def measure(daemon: Daemon, model: str, name: str, bodies: Sequence[Path], num_streams: int) -> list[Any]:
    """Rows for the streams alone and beside the requests with these bodies."""
    watched = Watched()
    limits = httpx.Limits(max_connections=None)
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as sender:
        async with httpx.AsyncClient(base_url=daemon.base_url, timeout=600, limits=limits) as client:
            await loop.run_in_executor(sender, time.perf_counter)  # it is there before anything is measured
            streams = [
                asyncio.create_task(
                    _stream(client, model, number, STREAM_TOKENS * (number + 1) // num_streams, watched)
                )
                for number in range(num_streams)
            ]
            await asyncio.sleep(1.0)
            alone = (time.perf_counter(), time.perf_counter() + ALONE_S)
            await asyncio.sleep(ALONE_S + PAUSE_S)
            neighbour = await _beside_another_program()
            for body in bodies:
                watched.spans.append(await loop.run_in_executor(sender, post_file, daemon.base_url, body))
                await asyncio.sleep(PAUSE_S)
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
    quiet, busy = watched.gaps_s([alone]), watched.gaps_s(watched.spans)
    taken_s = sum(end - begin for begin, end in watched.spans) / len(watched.spans)
    return [
        _row(model, "nothing else", quiet, quiet, ""),
        _row(model, "another program that computes", watched.gaps_s([neighbour]), quiet, ""),
        _row(model, name, busy, quiet, taken_s),
    ]


async def _beside_another_program() -> tuple[float, float]:
    """When another program began to keep a core busy, and when it ended."""
    program = await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass")
    span = (time.perf_counter(), time.perf_counter() + ALONE_S)
    await asyncio.sleep(ALONE_S)
    program.kill()
    await program.wait()
    await asyncio.sleep(PAUSE_S)
    return span


def post_file(base_url: str, body: Path) -> tuple[float, float]:
    """Send a request; when it began and when its answer was whole. Raises AssertionError where that is an error."""
    content = body.read_bytes()
    begin = time.perf_counter()
    post(base_url, content)
    return begin, time.perf_counter()


def post(base_url: str, body: bytes) -> None:
    """Send a request and read its answer. The plainest client, as it takes part of the same cores."""
    url = urlsplit(base_url)
    connection = http.client.HTTPConnection(url.netloc, timeout=600)
    connection.request("POST", f"{url.path}/chat/completions", body, _JSON)
    reply = connection.getresponse()
    answer = reply.read()
    connection.close()
    assert reply.status == 200 and json.loads(answer)["usage"]["completion_tokens"] == 2, answer[:300]


async def _stream(client: httpx.AsyncClient, model: str, number: int, first_tokens: int, watched: Watched) -> None:
    """One text stream after another, until it is cancelled.

    first_tokens: how long the first one is. A token at the end of a long answer takes four times as long as one at its
    beginning: where all streams began together, what they feel would depend on when they are asked.
    """
    moments: list[float] = []
    watched.tokens.append(moments)
    text = [{"type": "text", "text": f"Stream {number}: tell me a long story."}]
    num_tokens = first_tokens
    while True:
        body = _body(model, text, num_tokens, "", is_streamed=True)
        num_tokens = STREAM_TOKENS
        async with client.stream("POST", "/chat/completions", content=body, headers=_JSON) as reply:
            async for line in reply.aiter_lines():
                # The first chunk says whose turn it is, before there is a token.
                if line.startswith("data: {") and '"content"' in line and '"role"' not in line:
                    moments.append(time.perf_counter())
        moments = []
        watched.tokens.append(moments)


_JSON = {"content-type": "application/json"}


def _body(
    model: str,
    parts: Sequence[dict[str, Any]],
    num_tokens: int,
    text: str = "What is this?",
    *,
    is_streamed: bool = False,
) -> bytes:
    content = [*parts, {"type": "text", "text": text}] if text else list(parts)
    extra = {"ignore_eos": True, "media_io_kwargs": {"video": {"num_frames": 64}}}
    if model != "glimpsed-demo":
        extra["return_token_ids"] = is_streamed  # what random weights say is seldom text
    return chat_body([{"role": "user", "content": content}], model, num_tokens, extra, is_streamed=is_streamed)


def _part(kind: str, subtype: str, content: bytes) -> dict[str, Any]:
    url = f"data:{kind}/{subtype};base64,{base64.b64encode(content).decode()}"
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}


def _row(
    model: str, name: str, gaps_s: Sequence[float], alone_s: Sequence[float], taken_s: object
) -> tuple[object, ...]:
    p50, p99 = percentile(gaps_s, 50) * 1e3, percentile(gaps_s, 99) * 1e3
    over = p99 / (percentile(alone_s, 99) * 1e3)
    return (model, name, p50, p99, f"{over:.2f}", max(gaps_s) * 1e3, len(gaps_s), taken_s)


if __name__ == "__main__":
    main()
