"""A closed-loop load generator for any OpenAI-compatible server: C clients, N chat requests, M tokens each at most.

Every request has a prompt and pictures of its own, so that no server answers from a cache. Figures: tokens and
requests per second over the whole run, and, as the client sees them, time to first token, time between tokens and
time of the whole answer. Times to first token and between tokens exist for streamed answers only.
"""

import asyncio
import base64
import io
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

REQUEST_TIMEOUT_S = 900.0
_WORDS = "the a of one two red blue small large house tree river bird light stone and with under over near what".split()


@dataclass(frozen=True, slots=True)
class Load:
    """What to send.

    picture_sizes: (width, height) of the pictures; the requests take them in turn; none for text only.
    prompt_words: how long the text is; None for one short sentence.
    extra: more of the request's body.
    """

    base_url: str
    model: str
    num_clients: int
    num_requests: int
    max_tokens: int
    picture_sizes: Sequence[tuple[int, int]] = ()
    pictures_per_request: int = 1
    prompt_words: int | None = None
    is_streamed: bool = True
    api_key: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """One request as its client saw it. ttft_s: nan where no text came by stream. gaps_s: between chunks with text."""

    text: str
    tokens: int
    prompt_tokens: int
    ttft_s: float
    gaps_s: tuple[float, ...]
    total_s: float
    error: str | None = None
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """A run's figures; times in seconds, nan where nothing was measured. prompt_tokens: the mean."""

    clients: int
    requests: int
    errors: int
    prompt_tokens: float
    wall_s: float
    tokens_per_s: float
    requests_per_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    itl_p50_s: float
    itl_p99_s: float
    total_p50_s: float
    total_p99_s: float


async def run_load(load: Load) -> tuple[Report, list[Answer]]:
    """Send all requests and wait for their answers, which come back in the order of the requests.

    The requests are built before the first is sent. Raises ImportError where pictures are asked for without Pillow.
    """
    bodies = [request_body(load, number) for number in range(load.num_requests)]
    answers: list[Answer | None] = [None] * load.num_requests
    numbers = iter(range(load.num_requests))
    headers = {"authorization": f"Bearer {load.api_key}"} if load.api_key else {}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=load.base_url, headers=headers, limits=limits, timeout=REQUEST_TIMEOUT_S
    ) as client:

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
    text = "Describe the picture in detail please." if load.prompt_words is None else _words(load.prompt_words, number)
    content: list[dict[str, Any]] = [{"type": "text", "text": f"{number} {text}"}]
    if load.picture_sizes:
        size = load.picture_sizes[number % len(load.picture_sizes)]
        urls = [picture_url(size, number * 100 + i) for i in range(load.pictures_per_request)]
        content = [{"type": "image_url", "image_url": {"url": url}} for url in urls] + content
    messages = [{"role": "user", "content": content}]
    return chat_body(messages, load.model, load.max_tokens, load.extra, is_streamed=load.is_streamed)


def chat_body(
    messages: Sequence[dict[str, Any]], model: str, max_tokens: int, extra: dict[str, Any], *, is_streamed: bool = True
) -> bytes:
    """The JSON of a greedy request."""
    streaming = {"stream": True, "stream_options": {"include_usage": True}} if is_streamed else {}
    body = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0, **streaming, **extra}
    return json.dumps(body).encode()


async def ask(client: httpx.AsyncClient, body: bytes) -> Answer:
    """Send one request and read its answer to the end, streamed or whole. Any failure is the answer's `error`."""
    start = time.perf_counter()
    reading = _Reading()
    error = None
    try:
        headers = {"content-type": "application/json"}
        async with client.stream("POST", "/chat/completions", content=body, headers=headers) as reply:
            await _read(reply, reading)
    except (httpx.HTTPError, _Refused) as failure:
        error = str(failure) or type(failure).__name__
    except (ValueError, LookupError, TypeError, AttributeError) as failure:
        error = f"not an answer of this API: {type(failure).__name__}"
    total_s = time.perf_counter() - start
    usage, stamps = reading.usage, reading.stamps
    return Answer(
        text=reading.text,
        tokens=usage.get("completion_tokens") or 0,
        prompt_tokens=usage.get("prompt_tokens") or 0,
        ttft_s=stamps[0] - start if stamps else math.nan,
        gaps_s=tuple(later - sooner for sooner, later in zip(stamps, stamps[1:], strict=False)),
        total_s=total_s,
        error=error,
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
    )


@dataclass(slots=True)
class _Reading:
    """What has come of an answer; stamps: when each chunk of a stream with text came."""

    text: str = ""
    stamps: list[float] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)


class _Refused(Exception):
    """The server said no, or broke off."""


async def _read(reply: httpx.Response, reading: _Reading) -> None:
    """Read an answer to its end. Raises _Refused, httpx.HTTPError, and others where it is not of this API."""
    if reply.status_code != 200:
        raise _Refused(f"{reply.status_code} {(await reply.aread()).decode(errors='replace')[:300]}")
    if not reply.headers.get("content-type", "").startswith("text/event-stream"):
        answer = json.loads(await reply.aread())
        reading.text, reading.usage = answer["choices"][0]["message"]["content"] or "", answer.get("usage") or {}
        return
    is_whole = False  # not every server ends with [DONE]
    async for line in reply.aiter_lines():
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise _Refused(str(chunk["error"])[:300])
            reading.usage = chunk.get("usage") or reading.usage
            piece = chunk["choices"][0]["delta"].get("content") if chunk.get("choices") else None
            if piece:
                reading.stamps.append(time.perf_counter())
                reading.text += piece
            is_whole = is_whole or any(choice.get("finish_reason") for choice in chunk.get("choices") or ())
    if not is_whole:
        raise _Refused("the stream was cut off")


def summarise(num_clients: int, answers: Sequence[Answer], wall_s: float) -> Report:
    """The figures of a run; requests that failed count as errors only."""
    good = [answer for answer in answers if answer.error is None]
    firsts = [answer.ttft_s for answer in good if not math.isnan(answer.ttft_s)]
    gaps = [gap for answer in good for gap in answer.gaps_s]
    totals = [answer.total_s for answer in good]
    return Report(
        clients=num_clients,
        requests=len(answers),
        errors=len(answers) - len(good),
        prompt_tokens=sum(answer.prompt_tokens for answer in good) / len(good) if good else math.nan,
        wall_s=wall_s,
        tokens_per_s=sum(answer.tokens for answer in good) / wall_s,
        requests_per_s=len(good) / wall_s,
        ttft_p50_s=percentile(firsts, 50),
        ttft_p99_s=percentile(firsts, 99),
        itl_p50_s=percentile(gaps, 50),
        itl_p99_s=percentile(gaps, 99),
        total_p50_s=percentile(totals, 50),
        total_p99_s=percentile(totals, 99),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; nan where there are no values."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def picture_url(size: tuple[int, int], seed: int) -> str:
    """A JPEG that compresses like a photograph. Raises ImportError where Pillow is not installed."""
    from PIL import Image

    noise = random.Random(seed)
    small = Image.frombytes("RGB", (32, 32), noise.randbytes(32 * 32 * 3))
    picture = small.resize(size, Image.Resampling.BICUBIC)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def _words(count: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(_WORDS, k=count))
