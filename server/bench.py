"""`glimpsed bench`: load a running server and print what its clients saw, as a table or as JSON."""

import asyncio
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import httpx

from schemas.flags import ConfigError
from server.chat import ChatFailed, first_model
from server.loadgen import Answer, Load, Report, run_load
from server.settings import BenchSettings

CONNECT_S = 10.0
MAX_REASONS = 3


def run_bench(settings: BenchSettings, *, as_json: bool) -> int:
    """Send the load; the exit code: 1 where no request succeeded. Raises ConfigError for pictures without Pillow."""
    try:
        model = settings.model or _first_model(settings)
        report, answers = asyncio.run(run_load(load_of(settings, model)))
    except ImportError as error:
        raise ConfigError("--image-size: pictures need Pillow, which is not installed here") from error
    except httpx.RequestError as error:
        print(f"glimpsed bench: cannot reach {settings.base_url}: {error}", file=sys.stderr)
        return 1
    except ChatFailed as error:
        print(f"glimpsed bench: {error}", file=sys.stderr)
        return 1
    for line in reasons(answers):
        print(f"glimpsed bench: {line}", file=sys.stderr)
    print(to_json(report) if as_json else to_table(model, report))
    return 0 if report.errors < report.requests else 1


def load_of(settings: BenchSettings, model: str) -> Load:
    """What the settings ask for."""
    sizes = [size.split("x") for size in settings.image_size]
    return Load(
        base_url=settings.base_url,
        model=model,
        num_clients=settings.concurrency,
        num_requests=settings.requests,
        max_tokens=settings.max_tokens,
        picture_sizes=[(int(width), int(height)) for width, height in sizes],
        pictures_per_request=settings.images_per_request,
        prompt_words=settings.prompt_words,
        is_streamed=not settings.no_stream,
        api_key=settings.api_key[0] if settings.api_key else None,
        extra={"ignore_eos": True} if settings.ignore_eos else {},
    )


def reasons(answers: Sequence[Answer]) -> list[str]:
    """Why requests failed, the commonest reasons first."""
    counts = Counter(answer.error for answer in answers if answer.error is not None)
    return [f"{count} failed: {error}" for error, count in counts.most_common(MAX_REASONS)]


def to_json(report: Report) -> str:
    """One JSON object; null for what was not measured, which JSON has no number for."""
    figures = asdict(report).items()
    return json.dumps({name: None if math.isnan(value) else round(value, 6) for name, value in figures}, indent=2)


def to_table(model: str, report: Report) -> str:
    """Lines for people, times in milliseconds."""
    rows = [
        ("model", model),
        ("concurrency", str(report.clients)),
        ("requests", str(report.requests)),
        ("errors", str(report.errors)),
        ("prompt tokens, mean", _number(report.prompt_tokens)),
        ("wall time, s", _number(report.wall_s)),
        ("tokens/s", _number(report.tokens_per_s)),
        ("requests/s", _number(report.requests_per_s)),
        ("time to first token, ms", _pair(report.ttft_p50_s, report.ttft_p99_s)),
        ("between tokens, ms", _pair(report.itl_p50_s, report.itl_p99_s)),
        ("whole answer, ms", _pair(report.total_p50_s, report.total_p99_s)),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _first_model(settings: BenchSettings) -> str:
    headers = {"authorization": f"Bearer {settings.api_key[0]}"} if settings.api_key else {}
    with httpx.Client(base_url=settings.base_url, headers=headers, timeout=CONNECT_S) as client:
        return first_model(client)


def _pair(p50_s: float, p99_s: float) -> str:
    return "not measured" if math.isnan(p50_s) else f"p50 {p50_s * 1e3:.1f}   p99 {p99_s * 1e3:.1f}"


def _number(value: float) -> str:
    return "not measured" if math.isnan(value) else f"{value:,.1f}"
