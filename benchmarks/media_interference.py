"""What running text streams feel of a request with 16 pictures or a clip of 64 frames.

    python -m benchmarks.media_interference [--streams 4] [--requests 3]

Text streams run all the time; requests with media come one after another. Time between tokens is compared: of the
streams alone, and of those of their tokens that came while a request with media was being prepared or answered.
"""

import argparse
import asyncio
import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.daemon import Daemon, serve
from benchmarks.report import write_report
from benchmarks.sample_media import moving_clip, photograph
from server.loadgen import ask, chat_body, percentile

MODEL = "glimpsed-demo"
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
    args.add_argument("--requests", type=int, default=3)
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
    for name, requests in kinds.items():
        with serve(["--max-body-size", "128MiB"]) as daemon:
            rows += asyncio.run(measure(daemon, name, requests, asked.streams))
    notes = f"The built-in demo model, {asked.streams} text streams. Media differ from request to request."
    header = ["while running", "p50 ms", "p99 ms", "p99 over alone", "longest ms", "tokens", "answered in s"]
    write_report("media_interference", "Text streams beside media", notes, header, rows)


async def measure(daemon: Daemon, name: str, requests: Sequence[list[dict[str, Any]]], num_streams: int) -> list[Any]:
    """Rows for the streams alone and beside these requests."""
    watched = Watched()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=daemon.base_url, timeout=600, limits=limits) as client:
        await ask(client, _body(requests[0][:1], 2))
        streams = [asyncio.create_task(_stream(client, number, watched)) for number in range(num_streams)]
        await asyncio.sleep(1.0)
        alone = (time.perf_counter(), time.perf_counter() + ALONE_S)
        await asyncio.sleep(ALONE_S + PAUSE_S)
        for number, parts in enumerate(requests):
            begin = time.perf_counter()
            answer = await ask(client, _body(parts, 2, f"Request {number}."))
            assert answer.error is None, answer.error
            watched.spans.append((begin, time.perf_counter()))
            await asyncio.sleep(PAUSE_S)
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
    quiet, busy = watched.gaps_s([alone]), watched.gaps_s(watched.spans)
    taken_s = sum(end - begin for begin, end in watched.spans) / len(watched.spans)
    return [_row("nothing else", quiet, quiet, ""), _row(name, busy, quiet, taken_s)]


async def _stream(client: httpx.AsyncClient, number: int, watched: Watched) -> None:
    """One text stream after another, until it is cancelled."""
    moments: list[float] = []
    watched.tokens.append(moments)
    text = [{"type": "text", "text": f"Stream {number}: tell me a long story."}]
    body = _body(text, STREAM_TOKENS, "")
    while True:
        async with client.stream("POST", "/chat/completions", content=body, headers=_JSON) as reply:
            async for line in reply.aiter_lines():
                if line.startswith("data: {") and '"content"' in line:
                    moments.append(time.perf_counter())
        moments = []
        watched.tokens.append(moments)


_JSON = {"content-type": "application/json"}


def _body(parts: Sequence[dict[str, Any]], num_tokens: int, text: str = "What is this?") -> bytes:
    content = [*parts, {"type": "text", "text": text}] if text else list(parts)
    extra = {"ignore_eos": True, "media_io_kwargs": {"video": {"num_frames": 64}}}
    return chat_body([{"role": "user", "content": content}], MODEL, num_tokens, extra)


def _part(kind: str, subtype: str, content: bytes) -> dict[str, Any]:
    url = f"data:{kind}/{subtype};base64,{base64.b64encode(content).decode()}"
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}


def _row(name: str, gaps_s: Sequence[float], alone_s: Sequence[float], taken_s: object) -> tuple[object, ...]:
    p50, p99 = percentile(gaps_s, 50) * 1e3, percentile(gaps_s, 99) * 1e3
    over = p99 / (percentile(alone_s, 99) * 1e3)
    return (name, p50, p99, f"{over:.2f}", max(gaps_s) * 1e3, len(gaps_s), taken_s)


if __name__ == "__main__":
    main()
