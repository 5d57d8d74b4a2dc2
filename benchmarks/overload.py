"""What is left of a server of which more is asked than it can do: answers in time, refusals, what its clients are told.

    python -m benchmarks.overload [--loads 1 3 6] [--seconds 30] [--deadline 10]

The gateway, its queue and its worker processes are the product; the engine is null_worker.py, whose answers take two
seconds each and no computing, so that what it can do is known: half its seats, a second. Requests come as those of
strangers do, at random and whether or not earlier ones were answered, and each sets a deadline (`x-request-timeout`).
Exits with 1 where a client was told nothing in time.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from benchmarks.daemon import Daemon, serve
from benchmarks.report import write_report
from server.loadgen import percentile

MODEL = "null"
NUM_WORKERS = 2
MAX_NUM_SEQS = 8
SEATS = NUM_WORKERS * (MAX_NUM_SEQS + 2)
"""Jobs that run at a time: what a worker of so many sequences holds, see workers/settings.py."""
NUM_TOKENS, TOKEN_S = 4, 0.5
ANSWER_S = NUM_TOKENS * TOKEN_S
GRACE_S = 1.0
"""How long behind its deadline a client may hear of it, on a machine that has all of this to compute."""


@dataclass(slots=True)
class Outcome:
    """What clients saw at one load. Times in seconds from the request; told_s: of answers 504."""

    num_asked: int = 0
    answered_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    told_s: list[float] = field(default_factory=list)
    num_others: int = 0

    def unseen(self, deadline_s: float) -> int:
        """Requests that were accepted, and whose end came later than it may, or never."""
        late = [told for told in (*self.answered_s, *self.told_s) if told > deadline_s + GRACE_S]
        return len(late) + self.num_others

    def goodput(self, deadline_s: float, seconds: float) -> float:
        """Answers in time, a second of asking."""
        return sum(one <= deadline_s for one in self.answered_s) / seconds


def main() -> int:
    """Measure; the process's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=float, nargs="+", default=[1.0, 3.0, 6.0], help="multiples of what it can do")
    parser.add_argument("--seconds", type=float, default=30.0, help="of asking, at each load")
    parser.add_argument("--deadline", type=float, default=10.0, help="seconds that a request may take")
    asked = parser.parse_args()
    arguments = [f"{MODEL}={TOKEN_S}", "--workers-per-model", str(NUM_WORKERS), "--max-num-seqs", str(MAX_NUM_SEQS)]
    with serve(arguments, "benchmarks.null_daemon") as daemon:
        outcomes = []
        for load in asked.loads:
            outcomes.append(asyncio.run(ask_for(daemon, load * SEATS / ANSWER_S, asked.seconds, asked.deadline)))
            daemon.wait_until_idle()
    base = outcomes[0].goodput(asked.deadline, asked.seconds)
    rows = [
        _row(load, one, asked.deadline, asked.seconds, base) for load, one in zip(asked.loads, outcomes, strict=True)
    ]
    notes = (
        f"{NUM_WORKERS} workers with {SEATS} seats together, {ANSWER_S:g} s an answer; each request has "
        f"{asked.deadline:g} s. Goodput: answers within that time, a second. Refused: 429, at once. Told: 504 at the "
        "deadline. Unseen: accepted, and no word by the deadline. Clients, gateway and workers share the cores."
    )
    header = ["load", "asked a second", "goodput a second", "share of the first", "refused", "p50 ms", "p99 ms", "told",
              "unseen"]  # fmt: skip
    write_report("overload", "Overload", notes, header, rows)
    return 1 if any(one.unseen(asked.deadline) for one in outcomes) else 0


def _row(load: float, outcome: Outcome, deadline_s: float, seconds: float, base: float) -> Sequence[object]:
    goodput = outcome.goodput(deadline_s, seconds)
    refused_ms = [1000 * one for one in outcome.refused_s] or [float("nan")]
    return (
        f"{load:g} x",
        outcome.num_asked / seconds,
        goodput,
        goodput / base,
        len(outcome.refused_s),
        percentile(refused_ms, 50),
        percentile(refused_ms, 99),
        len(outcome.told_s),
        outcome.unseen(deadline_s),
    )


async def ask_for(daemon: Daemon, rate: float, seconds: float, deadline_s: float) -> Outcome:
    """Ask at random moments, `rate` times a second on the average, and wait for every answer."""
    rng = random.Random(f"{rate}")
    outcome = Outcome()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=1000)
    async with httpx.AsyncClient(base_url=daemon.base_url, timeout=deadline_s + 30, limits=limits) as client:
        began, at = time.monotonic(), 0.0
        async with asyncio.TaskGroup() as group:
            while (at := at + rng.expovariate(rate)) < seconds:
                await asyncio.sleep(max(0.0, began + at - time.monotonic()))
                group.create_task(_ask(client, deadline_s, outcome))
    return outcome


async def _ask(client: httpx.AsyncClient, deadline_s: float, outcome: Outcome) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Well?"}], "max_tokens": NUM_TOKENS}
    outcome.num_asked += 1
    began = time.monotonic()
    try:
        answer = await client.post("/chat/completions", json=body, headers={"x-request-timeout": str(deadline_s)})
    except httpx.TransportError:
        outcome.num_others += 1
        return
    lists = {200: outcome.answered_s, 429: outcome.refused_s, 504: outcome.told_s}
    if answer.status_code in lists:
        lists[answer.status_code].append(time.monotonic() - began)
    else:
        outcome.num_others += 1


if __name__ == "__main__":
    sys.exit(main())
