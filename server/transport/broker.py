"""The local queue as plain data: which job waits, which worker holds which job, who is still alive.

Knows no sockets, no clock of its own and no event loop: its owner passes the time in, sends what it is told to send
and calls `assign` after every change. A job is either waiting or held by one worker, never both; `check` proves it.

A lost worker's jobs are reported once and forgotten. They are not redelivered from here: only the gateway knows what
the client was already given, so it submits the rest again with `front=True`.
"""

from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from schemas.control import Claim, Heartbeat, Hello, Taken
from schemas.errors import Overloaded
from schemas.events import Event
from schemas.jobs import Job
from schemas.wire import LEASE_S
from server.transport.base import JobLost, WorkerInfo
from server.transport.leases import Leases
from server.transport.pace import Pace


@dataclass(frozen=True, slots=True, order=True)
class _Waiting:
    """Sorts by: resumed jobs first, then the smaller priority value, then who came first."""

    is_new: bool
    priority: int
    number: int
    job: Job = field(compare=False)


@dataclass(slots=True)
class _Line:
    """The jobs that wait for one model, best first, and how fast they are taken."""

    waiting: list[_Waiting] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)


class Broker:
    """Lines of waiting jobs, workers with credits, and leases.

    clock: seconds, monotonic. max_queue: jobs that may wait for one model. lease_s: silence after which a worker is
    taken for lost.
    """

    def __init__(self, clock: Callable[[], float], max_queue: int, lease_s: float = LEASE_S) -> None:
        self._clock = clock
        self._max_queue = max_queue
        self._leases = Leases(clock, lease_s)
        self._lines: dict[str, _Line] = {}
        self._credits: dict[str, int] = {}
        self._next_number = 0

    def submit(self, job: Job, *, front: bool = False) -> None:
        """Put a job in its model's line; an earlier epoch of it is forgotten. Raises Overloaded when the line is full
        (never for `front`)."""
        self.cancel(job.job_id)
        line = self._lines.setdefault(job.model, _Line())
        if not front and len(line.waiting) >= self._max_queue and not self._with_credit(job.model):
            raise Overloaded(
                f"{len(line.waiting)} requests already wait for the model '{job.model}'; try again later",
                line.pace.retry_after_s(len(line.waiting), self._clock()),
            )
        insort(line.waiting, _Waiting(not front, job.priority, self._next_number, job))
        self._next_number += 1

    def cancel(self, job_id: str) -> str | None:
        """Forget a job. Returns the worker that holds it and must be told, if there is one."""
        worker_id = self._leases.release(job_id)
        if worker_id is None:
            for line in self._lines.values():
                line.waiting[:] = [entry for entry in line.waiting if entry.job.job_id != job_id]
        return worker_id

    def assign(self) -> Iterator[tuple[str, Job]]:
        """Hand waiting jobs to workers with credit, the least loaded first: (worker id, job) to be sent, already
        booked as held when yielded. Repeats until nothing fits, so the caller may report a worker lost in between."""
        for model, line in self._lines.items():
            while line.waiting and (worker_id := self._least_loaded(model)) is not None:
                job = line.waiting.pop(0).job
                line.pace.saw_one_taken(self._clock())
                self._credits[worker_id] -= 1
                self._leases.hold(worker_id, job.job_id, job.epoch, is_taken=False)
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

    def depth(self, model: str) -> int:
        """Jobs that wait for a worker of this model."""
        line = self._lines.get(model)
        return len(line.waiting) if line is not None else 0

    def check(self) -> None:
        """Assert that every job is in one place, every held job has its holder, and no credit is negative."""
        self._leases.check()
        waiting = [entry.job.job_id for line in self._lines.values() for entry in line.waiting]
        assert len(waiting) == len(set(waiting)), "a job waits twice"
        assert not set(waiting) & set(self._leases.held()), "a job waits and is held"
        for model, line in self._lines.items():
            assert line.waiting == sorted(line.waiting), "a line is out of order"
            assert all(entry.job.model == model for entry in line.waiting), "a job waits in another model's line"
        assert all(credits >= 0 for credits in self._credits.values()), "a worker was overdrawn"

    def _with_credit(self, model: str) -> list[str]:
        return [
            hello.worker_id
            for hello in self._leases.hellos()
            if hello.card.name == model and self._credits[hello.worker_id] > 0
        ]

    def _least_loaded(self, model: str) -> str | None:
        return min(
            self._with_credit(model),
            key=lambda worker_id: (self._leases.num_held_by(worker_id), -self._credits[worker_id]),
            default=None,
        )
