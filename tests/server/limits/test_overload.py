"""A gate before workers of which more is asked than they can do, on a clock of its own: who is let in is in time."""

import heapq
import itertools
import random
from collections import deque
from dataclasses import dataclass

import msgspec
import pytest

from schemas.errors import Overloaded
from schemas.events import Accepted
from schemas.jobs import ChatJob
from server.limits.gate import Gate, Passage
from server.limits.key_limits import UNLIMITED
from server.limits.rates import RateLimits
from tests.fakes.clock import Clock
from tests.fakes.messages import chat_job

SEATS = 20
ANSWER_S = (1.0, 3.0)
CAPACITY = SEATS / (sum(ANSWER_S) / 2)
"""Answers a second."""
DEADLINE_S = 10.0
SECONDS = 300


@dataclass(slots=True)
class Tally:
    num_good: int = 0
    num_late: int = 0
    num_refused: int = 0


class Workers:
    """So many seats; jobs wait for one in the order in which they came."""

    def __init__(self, rng: random.Random, clock: Clock) -> None:
        self.tally = Tally()
        self._rng = rng
        self._clock = clock
        self._waiting: deque[tuple[float, ChatJob, Passage]] = deque()
        self._ends: list[tuple[float, int, float, Passage]] = []
        self._numbers = itertools.count()

    def come(self, job: ChatJob, passage: Passage) -> None:
        self._waiting.append((self._clock() + job.timeout_s, job, passage))
        self._begin()

    def work_until(self, at_s: float) -> None:
        while self._ends and self._ends[0][0] <= at_s:
            end_s, _, deadline_s, passage = heapq.heappop(self._ends)
            self._clock.advance(end_s - self._clock())
            passage.leave(1)
            self._count(is_good=end_s <= deadline_s)
            self._begin()
        self._clock.advance(at_s - self._clock())

    def _begin(self) -> None:
        while self._waiting and len(self._ends) < SEATS:
            deadline_s, job, passage = self._waiting.popleft()
            if deadline_s <= self._clock():
                passage.leave(0)
                self._count(is_good=False)
                continue
            passage.accepted(Accepted(job_id=job.job_id, epoch=0, seq=0, prompt_tokens=10))
            end_s = self._clock() + self._rng.uniform(*ANSWER_S)
            heapq.heappush(self._ends, (end_s, next(self._numbers), deadline_s, passage))

    def _count(self, *, is_good: bool) -> None:
        if is_good:
            self.tally.num_good += 1
        else:
            self.tally.num_late += 1


def play(load: float) -> Tally:
    rng, clock = random.Random(1), Clock()
    gate = Gate(lambda _: UNLIMITED, RateLimits(lambda _: UNLIMITED, clock), 10**9, clock)
    workers = Workers(rng, clock)
    start_s, at_s = clock(), clock()
    for number in itertools.count():
        at_s += rng.expovariate(load * CAPACITY)
        if at_s - start_s > SECONDS:
            return workers.tally
        workers.work_until(at_s)
        job = msgspec.structs.replace(chat_job(str(number), text="x" * 40), timeout_s=DEADLINE_S)
        try:
            workers.come(job, gate.enter(job))
        except Overloaded:
            workers.tally.num_refused += 1
    raise AssertionError


@pytest.mark.parametrize("load", [3.0, 10.0])
def test_as_much_is_done_in_time_as_without_the_crowd(load: float) -> None:
    alone, crowded = play(1.0), play(load)
    assert crowded.num_good >= 0.9 * max(alone.num_good, CAPACITY * SECONDS)
    assert crowded.num_late <= 0.05 * crowded.num_good
    assert crowded.num_refused > (load - 1.2) * CAPACITY * SECONDS


def test_nobody_is_refused_below_what_can_be_done() -> None:
    calm = play(0.7)
    assert (calm.num_refused, calm.num_late) == (0, 0)
