"""The local queue as plain data: which job waits, which worker holds which job, who is still alive.

Knows no sockets, no clock of its own and no event loop: its owner passes the time in, sends what it is told to send
and calls `assign` after every change. A job is either waiting or held by one worker, never both; `check` proves it.

A lost worker's jobs are reported once and forgotten. They are not redelivered from here: only the gateway knows what
the client was already given, so it submits the rest again with `front=True`.

A job goes to the least loaded worker, or to the one that has its beginning if that one is not much busier. It never
waits for that one; it may only be passed over, for PASSED_OVER_S at most, by jobs whose beginning the free worker has.
"""

from bisect import insort
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from schemas.control import Claim, Goodbye, Heartbeat, Hello, Taken
from schemas.errors import Overloaded
from schemas.events import Event
from schemas.jobs import Job
from schemas.wire import LEASE_S
from server.transport.affinity import Affinity, AffinityCounts, beginnings
from server.transport.base import JobLost, WorkerInfo
from server.transport.leases import Leases
from server.transport.pace import Pace

PASSED_OVER_S = 1.0
LOOKAHEAD = 16
"""How many of the first jobs in a line are looked at for one whose beginning the free worker has."""


@dataclass(slots=True, order=True)
class _Waiting:
    """Sorts by: resumed jobs first, then the smaller priority value, then who came first.

    digests: of its beginnings. passed_over_at: when a later one first went before it.
    """

    is_new: bool
    priority: int
    number: int
    job: Job = field(compare=False)
    digests: tuple[bytes, ...] = field(compare=False)
    passed_over_at: float | None = field(default=None, compare=False)


@dataclass(slots=True)
class _Line:
    """The jobs that wait for one model, best first, those that are suspected apart, and how fast they are taken."""

    waiting: list[_Waiting] = field(default_factory=list)
    suspected: list[_Waiting] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)

    @property
    def depth(self) -> int:
        """How many wait."""
        return len(self.waiting) + len(self.suspected)

    def add(self, entry: _Waiting) -> None:
        """Put a job in its place."""
        insort(self.suspected if entry.job.trial_tokens else self.waiting, entry)

    def forget(self, job_id: str) -> None:
        """Take a job out; unknown ids are fine."""
        for part in (self.waiting, self.suspected):
            part[:] = [entry for entry in part if entry.job.job_id != job_id]


class Broker:
    """Lines of waiting jobs, workers with credits, and leases.

    clock: seconds, monotonic. max_queue: jobs that may wait for one model. lease_s: silence after which a worker is
    taken for lost. affinity_margin: see Affinity.
    """

    def __init__(
        self, clock: Callable[[], float], max_queue: int, lease_s: float = LEASE_S, affinity_margin: float = 0.0
    ) -> None:
        self._clock = clock
        self._max_queue = max_queue
        self._leases = Leases(clock, lease_s)
        self._affinity = Affinity(affinity_margin)
        self._lines: dict[str, _Line] = {}
        self._credits: dict[str, int] = {}
        """By worker; the one that was given a job longest ago comes first."""
        self._next_number = 0

    def submit(self, job: Job, *, front: bool = False) -> None:
        """Put a job in its model's line; an earlier epoch of it is forgotten. Raises Overloaded when the line is full
        (never for `front`)."""
        self.cancel(job.job_id)
        line = self._lines.setdefault(job.model, _Line())
        if not front and line.depth >= self._max_queue and not self._with_credit(job.model):
            raise Overloaded(
                f"{line.depth} requests already wait for the model '{job.model}'; try again later",
                line.pace.retry_after_s(line.depth, self._clock()),
            )
        line.add(_Waiting(not front, job.priority, self._next_number, job, self._digests(job)))
        self._next_number += 1

    def cancel(self, job_id: str) -> str | None:
        """Forget a job. Returns the worker that holds it and must be told, if there is one."""
        worker_id = self._leases.release(job_id)
        if worker_id is None:
            for line in self._lines.values():
                line.forget(job_id)
        return worker_id

    def assign(self) -> Iterator[tuple[str, Job]]:
        """Hand waiting jobs to workers with credit: (worker id, job) to be sent, already booked as held when yielded.
        Repeats until nothing fits, so the caller may report a worker lost in between."""
        for model, line in self._lines.items():
            while line.depth and (match := self._match(line, self._with_credit(model))):
                entry, worker_id = match
                job = entry.job
                line.pace.saw_one_taken(self._clock())
                self._credits[worker_id] = self._credits.pop(worker_id) - 1
                self._affinity.saw(entry.digests, worker_id)
                self._leases.hold(worker_id, job.job_id, job.epoch, is_taken=False, trial_tokens=job.trial_tokens)
                yield worker_id, job

    def hello(self, hello: Hello) -> None:
        """A worker is there; said again it starts its credits anew (a Claim follows) and keeps its jobs."""
        self._leases.hello(hello)
        self._credits[hello.worker_id] = 0

    def claim(self, claim: Claim) -> None:
        """A worker can take more jobs. Raises UnknownWorker."""
        self._leases.saw(claim.worker_id)
        if not self._leases.is_draining(claim.worker_id):
            self._credits[claim.worker_id] += max(0, claim.credits)

    def taken(self, taken: Taken) -> None:
        """See Leases."""
        self._leases.taken(taken.worker_id, taken.job_id, taken.epoch)

    def heartbeat(self, heartbeat: Heartbeat) -> tuple[list[JobLost], list[str]]:
        """See Leases. A draining worker's credits are void."""
        answer = self._leases.heartbeat(heartbeat)
        if self._leases.is_draining(heartbeat.worker_id):
            self._credits[heartbeat.worker_id] = 0
        return answer

    def event(self, worker_id: str, event: Event) -> None:
        """See Leases."""
        self._leases.event(worker_id, event)

    def worker_lost(self, worker_id: str) -> list[JobLost]:
        """The worker is gone; its jobs, each to be reported. Unknown ids are fine."""
        self._credits.pop(worker_id, None)
        return self._leases.worker_lost(worker_id)

    def goodbye(self, goodbye: Goodbye) -> list[JobLost]:
        """See Leases."""
        self._credits.pop(goodbye.worker_id, None)
        return self._leases.goodbye(goodbye)

    def expire(self) -> list[JobLost]:
        """Take workers for lost that were silent for a lease."""
        lost = self._leases.expire()
        for worker_id in [worker_id for worker_id in self._credits if not self._leases.is_known(worker_id)]:
            del self._credits[worker_id]
        return lost

    def renew_all(self) -> None:
        """See Leases."""
        self._leases.renew_all()

    def workers(self) -> list[WorkerInfo]:
        """Workers that live now."""
        return self._leases.workers()

    def affinity(self) -> AffinityCounts:
        """How often jobs went to where their beginning was."""
        return self._affinity.counts

    def lost_workers(self) -> Mapping[tuple[str, str], int]:
        """See Leases."""
        return self._leases.lost_workers

    def depth(self, model: str) -> int:
        """Jobs that wait for a worker of this model."""
        line = self._lines.get(model)
        return line.depth if line is not None else 0

    def check(self) -> None:
        """Assert that every job is in one place, every held job has its holder, and no credit is negative."""
        self._leases.check()
        waiting = [entry.job.job_id for line in self._lines.values() for entry in (*line.waiting, *line.suspected)]
        assert len(waiting) == len(set(waiting)), "a job waits twice"
        assert not set(waiting) & set(self._leases.held()), "a job waits and is held"
        for model, line in self._lines.items():
            for part in (line.waiting, line.suspected):
                assert part == sorted(part), "a line is out of order"
                assert all(entry.job.model == model for entry in part), "a job waits in another model's line"
        assert all(credits >= 0 for credits in self._credits.values()), "a worker was overdrawn"

    def _digests(self, job: Job) -> tuple[bytes, ...]:
        """None where there is no choice, and for what generates nothing and so leaves nothing behind."""
        has_choice = sum(self._leases.model_of(worker_id) == job.model for worker_id in self._credits) > 1
        return beginnings(job) if self._affinity.is_on and has_choice and job.n else ()

    def _with_credit(self, model: str) -> list[str]:
        return [
            worker_id
            for worker_id, credits in self._credits.items()
            if credits > 0 and self._leases.model_of(worker_id) == model
        ]

    def _match(self, line: _Line, free: list[str]) -> tuple[_Waiting, str] | None:
        """Take the next job out of the line. Returns which of the free workers gets it; None where nothing fits."""
        if line.suspected:
            able = [worker_id for worker_id in free if not self._leases.has_one_on_trial(worker_id)]
            if able:
                return line.suspected.pop(0), self._least_loaded(able)
        if not line.waiting or not free:
            return None
        loads = {worker_id: self._load(worker_id) for worker_id in free}
        chosen = self._affinity.choose(line.waiting[0].digests, loads)
        if chosen is not None:
            return line.waiting.pop(0), chosen
        least_loaded = self._least_loaded(free)
        return line.waiting.pop(self._next_for(least_loaded, line.waiting[:LOOKAHEAD])), least_loaded

    def _least_loaded(self, free: list[str]) -> str:
        return min(free, key=lambda worker_id: (self._leases.num_held_by(worker_id), -self._credits[worker_id]))

    def _next_for(self, worker_id: str, first: list[_Waiting]) -> int:
        """The place of the first job whose beginning this worker has, if it may go before the others; else 0."""
        now = self._clock()
        for place, entry in enumerate(first):
            if (entry.is_new, entry.priority) != (first[0].is_new, first[0].priority):
                break
            if self._affinity.last_with(entry.digests, self._credits) == worker_id:
                for passed in first[:place]:
                    passed.passed_over_at = now if passed.passed_over_at is None else passed.passed_over_at
                return place
            if entry.passed_over_at is not None and now - entry.passed_over_at >= PASSED_OVER_S:
                break
        return 0

    def _load(self, worker_id: str) -> float:
        num_held = self._leases.num_held_by(worker_id)
        return num_held / (num_held + self._credits[worker_id])
