"""Conversations of several turns over four workers: how much of their prompts is found in the caches, by routing.

    python -m benchmarks.affinity [--clients 48] [--talks 2] [--turns 8] [--pages 1024,4096]

Gateway, queue and workers are the product; the engine is a fake one with real pages and prefix cache (paged_engine.py).
Random routing is no part of the product: the four workers then serve four names, and the client draws one for each
request.
"""

import argparse
import asyncio
import os
import random
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.crowd import crowd
from benchmarks.daemon import Daemon
from benchmarks.paged_engine import BLOCK_SIZE, PICTURE_TOKENS, PREFILL_TOKENS_PER_S, TOKEN_S
from benchmarks.report import write_report
from server.loadgen import Answer, ask, chat_body, percentile

NUM_WORKERS = 4
SEATS = 64
SYSTEM_WORDS = 100
QUESTION_WORDS = (60, 200)
ANSWER_TOKENS = 16
PICTURE_SHARE = 0.5
"""Of the conversations; each picture is that of two of them."""
THINK_S = 2.0
"""Between an answer and the next question, on average."""
MAX_IMBALANCE = 1.3
RANDOM, LEAST_LOADED, AFFINITY = "random", "least loaded (`--affinity-margin 0`)", "affinity (the default)"
ROUTINGS = (RANDOM, LEAST_LOADED, AFFINITY)


@dataclass(frozen=True, slots=True)
class Result:
    """One run. Loads: of the busiest worker over the mean, by jobs and by the time that jobs spent at it."""

    cached_share: float
    jobs_load: float
    time_load: float
    ttft_p50_s: float
    ttft_p99_s: float
    hits: float
    misses: float


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--clients", type=int, default=48, help="at a time, each with one conversation after another")
    args.add_argument("--talks", type=int, default=2, help="conversations of each client")
    args.add_argument("--turns", type=int, default=8)
    args.add_argument("--pages", default="1024,4096", help="of each worker; the targets are for the first number")
    args.add_argument("--seed", type=int, default=0)
    asked = args.parse_args()
    load = os.getloadavg()[0]
    pages = [int(number) for number in asked.pages.split(",")]
    results = {(num_pages, routing): run(asked, num_pages, routing) for num_pages in pages for routing in ROUTINGS}
    ratios = [results[number, AFFINITY].cached_share / results[number, RANDOM].cached_share for number in pages]
    affine = results[pages[0], AFFINITY]
    is_met = ratios[0] >= 2 and max(affine.jobs_load, affine.time_load) <= MAX_IMBALANCE
    verdict = "met" if is_met else "NOT MET"
    shown = " and ".join(f"{ratio:.2f} with {number} pages" for number, ratio in zip(pages, ratios, strict=True))
    notes = f"""
{asked.clients} clients hold {asked.talks} conversations of {asked.turns} turns each, one after the other; a system
prompt of {SYSTEM_WORDS} words that all share, questions of {QUESTION_WORDS[0]} to {QUESTION_WORDS[1]}, answers of
{ANSWER_TOKENS} tokens, pauses of {THINK_S:.0f} s on average; half of the conversations begin with a picture
({PICTURE_TOKENS} tokens), each picture in two of them. {NUM_WORKERS} workers with {SEATS} seats and pages of
{BLOCK_SIZE} tokens. The engine is a fake one with the product's block manager: it computes {PREFILL_TOKENS_PER_S}
prompt tokens a second, one prompt at a time, and a token of each answer every {TOKEN_S * 1e3:.0f} ms. Load: the busiest
worker's over the mean.

Cached share, affinity over random: {shown}. Both targets with {pages[0]} pages (at least 2, load at most
{MAX_IMBALANCE}): {verdict}. The conversations under way take about two thirds of {NUM_WORKERS} x 1024 pages. Where each
worker has room for all of them, random routing finds much of them too, in {NUM_WORKERS} copies.

Load average before: {load:.1f}. Cached shares and loads hold on a busy machine as well, times do not.
"""
    header = ["pages", "routing", "cached share of prompt tokens", "load by jobs", "load by time at work", "TTFT p50 s",
              "TTFT p99 s", "hits", "misses"]  # fmt: skip
    rows = [
        (number, routing, one.cached_share, one.jobs_load, one.time_load, one.ttft_p50_s, one.ttft_p99_s, *counts(one))
        for (number, routing), one in results.items()
    ]
    write_report("affinity", "A conversation's next turn at the worker that has it", notes, header, rows)


def counts(result: Result) -> tuple[int, int]:
    """Hits and misses."""
    return round(result.hits), round(result.misses)


def run(asked: argparse.Namespace, num_pages: int, routing: str) -> Result:
    """All conversations. Raises RuntimeError where a request failed."""
    names = [f"w{number}" if routing == RANDOM else "w" for number in range(NUM_WORKERS)]
    flags = ["--affinity-margin", "0"] if routing == LEAST_LOADED else []
    with tempfile.TemporaryDirectory(prefix="gl") as folder:
        queue, data = f"ipc://{folder}/queue/socket", ["--data-dir", f"{folder}/data"]
        with crowd(["paged", str(num_pages)], [names], SEATS, queue, [[*data, *flags]]) as found:
            [gateway] = found.gateways
            answers = asyncio.run(all_talks(asked, gateway.base_url, names))
            gateway.wait_until_idle()
            return result_of(answers, gateway)


def result_of(answers: Sequence[Answer], gateway: Daemon) -> Result:
    """The figures. Raises RuntimeError where a request failed."""
    errors = [answer.error for answer in answers if answer.error is not None]
    if errors:
        raise RuntimeError(f"{len(errors)} of {len(answers)} requests failed: {errors[0]}")
    firsts = [answer.ttft_s for answer in answers]
    return Result(
        cached_share=sum(answer.cached_tokens for answer in answers) / sum(answer.prompt_tokens for answer in answers),
        jobs_load=imbalance(gateway, "fake_jobs_total"),
        time_load=imbalance(gateway, "fake_job_seconds_total"),
        ttft_p50_s=percentile(firsts, 50),
        ttft_p99_s=percentile(firsts, 99),
        hits=gateway.metric("glimpsed_affinity_hits_total"),
        misses=gateway.metric("glimpsed_affinity_misses_total"),
    )


def imbalance(gateway: Daemon, name: str) -> float:
    """The greatest of a figure that each worker has, over the mean."""
    text = httpx.get(f"{gateway.url}/metrics").text
    figures = [float(value) for value in re.findall(rf"^glimpsed_worker_{name}{{.*}} (\S+)$", text, re.MULTILINE)]
    return max(figures) * NUM_WORKERS / sum(figures)


async def all_talks(asked: argparse.Namespace, base_url: str, names: Sequence[str]) -> list[Answer]:
    """Let all clients talk, and give all answers."""
    num_pictures = max(1, round(asked.clients * asked.talks * PICTURE_SHARE / 2))
    async with httpx.AsyncClient(base_url=base_url, limits=httpx.Limits(max_connections=None), timeout=300) as client:

        async def one_client(number: int) -> list[Answer]:
            rng = random.Random(f"{asked.seed}/{number}")
            await asyncio.sleep(rng.uniform(0, THINK_S))
            return [
                answer
                for _ in range(asked.talks)
                for answer in await talk(client, rng, names, asked.turns, rng.randrange(num_pictures))
            ]

        answered = await asyncio.gather(*(one_client(number) for number in range(asked.clients)))
    return [answer for answers in answered for answer in answers]


async def talk(
    client: httpx.AsyncClient, rng: random.Random, names: Sequence[str], num_turns: int, picture: int
) -> list[Answer]:
    """One conversation; each turn asks one of the names by chance."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be brief. " * (SYSTEM_WORDS // 2)}]
    has_picture = rng.random() < PICTURE_SHARE
    answers = []
    for turn in range(num_turns):
        content: list[dict[str, Any]] = [{"type": "text", "text": words(rng)}]
        if turn == 0 and has_picture:
            content.insert(0, {"type": "image_url", "image_url": {"url": f"https://example.com/{picture}.png"}})
        messages.append({"role": "user", "content": content})
        answer = await ask(client, chat_body(messages, rng.choice(names), ANSWER_TOKENS, {}))
        answers.append(answer)
        messages.append({"role": "assistant", "content": answer.text})
        await asyncio.sleep(rng.expovariate(1 / THINK_S))
    return answers


def words(rng: random.Random) -> str:
    """A question."""
    return " ".join(f"q{rng.randrange(10_000)}" for _ in range(rng.randint(*QUESTION_WORDS)))


if __name__ == "__main__":
    main()
