"""A closed-loop load generator for any OpenAI-compatible server: C clients, N streamed requests, M tokens each.

Every request carries pictures of its own, so that no server answers from a cache. Figures: tokens per second over the
whole run, time to first token, time between tokens as the client sees them.
"""

import asyncio
import base64
import io
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx


@dataclass(frozen=True, slots=True)
class Load:
    """What to send. `picture`: (width, height) of the pictures, None for text only."""

    base_url: str
    model: str
    num_clients: int
    num_requests: int
    max_tokens: int
    picture: tuple[int, int] | None = None
    pictures_per_request: int = 1
    api_key: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """One request as its client saw it. gaps_s: between chunks with text."""

    text: str
    tokens: int
    prompt_tokens: int
    ttft_s: float
    gaps_s: tuple[float, ...]
    error: str | None = None
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """A run's figures; times in seconds."""

    clients: int
    requests: int
    errors: int
    prompt_tokens: int
    wall_s: float
    tokens_per_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    itl_p50_s: float
    itl_p99_s: float

    def __str__(self) -> str:
        return json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()})


async def run_load(load: Load) -> tuple[Report, list[Answer]]:
    """Send all requests and wait for their answers, which come back in the order of the requests."""
    bodies = [request_body(load, number) for number in range(load.num_requests)]
    answers: list[Answer | None] = [None] * load.num_requests
    numbers = iter(range(load.num_requests))
    headers = {"authorization": f"Bearer {load.api_key}"} if load.api_key else {}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=load.base_url, headers=headers, limits=limits, timeout=900) as client:

        async def one_client() -> None:
            for number in numbers:
                answers[number] = await ask(client, bodies[number])

        start = time.perf_counter()
        await asyncio.gather(*(one_client() for _ in range(load.num_clients)))
        wall_s = time.perf_counter() - start
    done = [answer for answer in answers if answer is not None]
    return summarise(load.num_clients, done, wall_s), done


def request_body(load: Load, number: int) -> bytes:
    """The JSON of the number-th request; its pictures are noise on a gradient, seeded by the number."""
    content: list[dict[str, Any]] = [{"type": "text", "text": f"{number} Describe the picture in detail please."}]
    if load.picture is not None:
        urls = [picture_url(load.picture, number * 100 + i) for i in range(load.pictures_per_request)]
        content = [{"type": "image_url", "image_url": {"url": url}} for url in urls] + content
    return chat_body([{"role": "user", "content": content}], load.model, load.max_tokens, load.extra)


def chat_body(messages: Sequence[dict[str, Any]], model: str, max_tokens: int, extra: dict[str, Any]) -> bytes:
    """The JSON of a greedy, streamed request."""
    body = {
        "model": model,
        "messages": messages,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **extra,
    }
    return json.dumps(body).encode()


async def ask(client: httpx.AsyncClient, body: bytes) -> Answer:
    """Send one streamed request and read it to its end."""
    start = time.perf_counter()
    stamps: list[float] = []
    text = ""
    usage: dict[str, Any] = {"completion_tokens": 0, "prompt_tokens": 0}
    headers = {"content-type": "application/json"}
    async with client.stream("POST", "/chat/completions", content=body, headers=headers) as reply:
        if reply.status_code != 200:
            error = (await reply.aread()).decode(errors="replace")[:300]
            return Answer("", 0, 0, 0.0, (), f"{reply.status_code} {error}")
        async for line in reply.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                return Answer(text, 0, 0, 0.0, (), str(chunk["error"])[:300])
            usage = chunk.get("usage") or usage
            piece = chunk["choices"][0]["delta"].get("content") if chunk.get("choices") else None
            if piece:
                stamps.append(time.perf_counter())
                text += piece
    gaps = tuple(later - sooner for sooner, later in zip(stamps, stamps[1:], strict=False))
    first = stamps[0] - start if stamps else 0.0
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Answer(text, usage["completion_tokens"], usage["prompt_tokens"], first, gaps, cached_tokens=cached)


def summarise(num_clients: int, answers: Sequence[Answer], wall_s: float) -> Report:
    """The figures of a run; requests that failed count as errors only."""
    good = [answer for answer in answers if answer.error is None]
    firsts = [answer.ttft_s for answer in good]
    gaps = [gap for answer in good for gap in answer.gaps_s]
    return Report(
        clients=num_clients,
        requests=len(answers),
        errors=len(answers) - len(good),
        prompt_tokens=good[0].prompt_tokens if good else 0,
        wall_s=wall_s,
        tokens_per_s=sum(answer.tokens for answer in good) / wall_s,
        ttft_p50_s=percentile(firsts, 50),
        ttft_p99_s=percentile(firsts, 99),
        itl_p50_s=percentile(gaps, 50),
        itl_p99_s=percentile(gaps, 99),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; 0 where there are no values."""
    if not values:
        return 0.0
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))]


def picture_url(size: tuple[int, int], seed: int) -> str:
    """A JPEG that compresses like a photograph. Raises ImportError where Pillow is not installed."""
    from PIL import Image

    noise = random.Random(seed)
    small = Image.frombytes("RGB", (32, 32), noise.randbytes(32 * 32 * 3))
    picture = small.resize(size, Image.Resampling.BICUBIC)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
