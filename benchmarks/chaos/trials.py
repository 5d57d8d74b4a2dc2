"""Trials: in each, clients of one model stream, a blow falls in the middle, and every history is checked.

A cell is one model with workers of its own, so that trials in several cells go on side by side and none of them hits
another's requests: a request is at one worker's death at most, and has no excuse to fail.
"""

import asyncio
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import httpx

from benchmarks.chaos.clients import Asked, Trigger, ask
from benchmarks.chaos.faults import Blow, Fleet
from benchmarks.chaos.history import Kind, Violation, check
from benchmarks.chaos.questions import Known, Source, maybe_leaving

JITTER_S = 0.05
"""A blow falls up to so long behind the moment that it waits for."""
STABLE_S = 5.5
"""A worker this old is started again without a grudge (server/supervise.py), or the pauses would grow."""


@dataclass(slots=True)
class Outcome:
    """What came of trials. num_refused: requests turned away by right. gaps_s: of each trial, the longest time that a
    client got nothing. backs_s: from a blow to the return of all workers. noticed_s: until it was noticed."""

    num_trials: int = 0
    num_requests: int = 0
    num_left: int = 0
    num_refused: int = 0
    violations: list[Violation] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    backs_s: list[float] = field(default_factory=list)
    noticed_s: list[float] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        """Take other trials in."""
        self.num_trials += other.num_trials
        self.num_requests += other.num_requests
        self.num_left += other.num_left
        self.num_refused += other.num_refused
        self.violations += other.violations
        self.gaps_s += other.gaps_s
        self.backs_s += other.backs_s
        self.noticed_s += other.noticed_s

    def count(self, *kinds: Kind) -> int:
        """Violations of these kinds."""
        return sum(violation.kind in kinds for violation in self.violations)


@dataclass(frozen=True, slots=True)
class Cell:
    """One model with so many workers, and how many clients stream in each trial."""

    client: httpx.AsyncClient
    fleet: Fleet
    model: str
    num_workers: int
    num_streams: int
    source: Source
    stable_s: float = STABLE_S

    async def trial(self, rng: random.Random, blow: Blow) -> Outcome:
        """Stream, strike, check."""
        pids = await self.fleet.whole(self.model, self.num_workers, self.stable_s if blow.kills else 0.0)
        known = [self.source(rng, self.model, blow.token_factor) for _ in range(self.num_streams)]
        # The first one stays: it says when the blow falls.
        known[1:] = [maybe_leaving(rng, one) for one in known[1:]]
        trigger = Trigger(rng.choice(places(known[0].answer.completion_tokens)))
        asked = [ask(self.client, known[0].question, trigger)]
        asked += [ask(self.client, one.question) for one in known[1:]]
        await trigger.wait()
        await asyncio.sleep(rng.random() * JITTER_S)
        struck_at = time.monotonic()
        await blow.strike(self.fleet, self.model, pids, rng.random())
        backs_s = []
        if blow.kills:
            await self.fleet.gone(self.model, pids[0])
            await self.fleet.whole(self.model, self.num_workers)
            backs_s = [time.monotonic() - struck_at]
        await asyncio.gather(*(one.task for one in asked))
        return judge(known, asked, backs_s)


def judge(known: Sequence[Known], asked: Sequence[Asked], backs_s: Sequence[float] = ()) -> Outcome:
    """One trial's outcome, once all its clients are done."""
    seen = [one.history for one in asked]
    violations = [
        Violation(violation.kind, f"{one.question.model} seed {one.question.seed}: {violation.what}")
        for one, history in zip(known, seen, strict=True)
        for violation in check(history, one.answer)
    ]
    gaps_s = [history.longest_gap_s for history in seen if not history.has_left]
    num_left = sum(history.has_left for history in seen)
    return Outcome(
        num_trials=1,
        num_requests=len(seen),
        num_left=num_left,
        violations=violations,
        gaps_s=[max(gaps_s, default=0.0)],
        backs_s=list(backs_s),
    )


def places(num_tokens: int) -> list[int]:
    """When blows fall: before the answer, before its first token, behind it, in the middle, before the last."""
    return [-1, 0, 1, num_tokens // 2, num_tokens - 1]


async def run_trials(cells: Iterable[Cell], blow: Blow, num_trials: int, seed: int) -> Outcome:
    """So many trials, one after another in each cell. A trial's number is its seed, whichever cell it falls to."""
    numbers = iter(range(num_trials))
    outcome = Outcome()

    async def one_cell(cell: Cell, numbers: Iterator[int]) -> None:
        for number in numbers:
            try:
                outcome.add(await cell.trial(random.Random(f"{seed} {blow.name} {number}"), blow))
            except TimeoutError:
                outcome.violations.append(Violation(Kind.FAILED, f"{cell.model}: its workers did not come back"))

    await asyncio.gather(*(one_cell(cell, numbers) for cell in cells))
    return outcome
