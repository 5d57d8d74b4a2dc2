"""The local queue as plain data: which job waits, which worker holds which job, who is still alive.

Knows no sockets, no clock of its own and no event loop: its owner passes the time in, sends what it is told to send
and calls `assign` after every change. A job is either waiting or held by one worker, never both; `check` proves it.

A lost worker's jobs are reported once and forgotten. They are not redelivered from here: only the gateway knows what
the client was already given, so it submits the rest again with `front=True`.
"""

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from schemas.control import Claim, Heartbeat, Hello
from schemas.errors import Overloaded
from schemas.events import Event, Failed, Finished
from schemas.jobs import Job
from schemas.wire import LEASE_S
from server.transport.base import JobLost, WorkerInfo

MIN_RETRY_AFTER_S = 1.0
MAX_RETRY_AFTER_S = 60.0


class UnknownWorker(Exception):
    """The worker speaks without having said Hello to this gateway (which restarted, or took it for lost)."""


@dataclass(slots=True)
class _Held:
    epoch: int
    assigned_at: float


@dataclass(slots=True)
class _Worker:
    hello: Hello
    last_seen: float
    credits: int = 0
    heartbeat: Heartbeat | None = None
    jobs: dict[str, _Held] = field(default_factory=dict)

    @property
    def is_draining(self) -> bool:
        return self.heartbeat is not None and self.heartbeat.state == "draining"


@dataclass(frozen=True, slots=True, order=True)
class _Waiting:
    """Sorts by: resumed jobs first, then the smaller priority value, then who came first."""

    is_new: bool
    priority: int
    number: int
    job: Job = field(compare=False)


@dataclass(slots=True)
class _Line:
    """The jobs that wait for one model, best first, and when the last ones were taken."""

    waiting: list[_Waiting] = field(default_factory=list)
    taken_at: deque[float] = field(default_factory=lambda: deque(maxlen=64))

    def retry_after_s(self, now: float) -> float:
        """How long the line needs to empty at the rate at which jobs were taken lately."""
        if len(self.taken_at) < 2 or now <= self.taken_at[0]:
            return MIN_RETRY_AFTER_S
        rate = len(self.taken_at) / (now - self.taken_at[0])
        return min(MAX_RETRY_AFTER_S, max(MIN_RETRY_AFTER_S, len(self.waiting) / rate))


class Broker:
    """Lines of waiting jobs, workers with credits, and leases.

    clock: seconds, monotonic. max_queue: jobs that may wait for one model. lease_s: silence after which a worker is
    taken for lost.
    """

    def __init__(self, clock: Callable[[], float], max_queue: int, lease_s: float = LEASE_S) -> None:
        self._clock = clock
        self._max_queue = max_queue
        self._lease_s = lease_s
        self._lines: dict[str, _Line] = {}
        self._workers: dict[str, _Worker] = {}
        self._holder: dict[str, str] = {}
        self._next_number = 0

    def submit(self, job: Job, *, front: bool = False) -> None:
        """Put a job in its model's line; an earlier epoch of it is forgotten. Raises Overloaded when the line is full
        (never for `front`)."""
        self.cancel(job.job_id)
        line = self._lines.setdefault(job.model, _Line())
        if not front and len(line.waiting) >= self._max_queue and not self._has_credit(job.model):
            raise Overloaded(
                f"{len(line.waiting)} requests already wait for the model '{job.model}'; try again later",
                line.retry_after_s(self._clock()),
            )
        insort(line.waiting, _Waiting(not front, job.priority, self._next_number, job))
        self._next_number += 1

    def cancel(self, job_id: str) -> str | None:
        """Forget a job. Returns the worker that holds it and must be told, if there is one."""
        worker_id = self._holder.pop(job_id, None)
        if worker_id is not None:
            del self._workers[worker_id].jobs[job_id]
            return worker_id
        for line in self._lines.values():
            line.waiting[:] = [entry for entry in line.waiting if entry.job.job_id != job_id]
        return None

    def assign(self) -> Iterator[tuple[str, Job]]:
        """Hand waiting jobs to workers with credit, the least loaded first: (worker id, job) to be sent, already
        booked as held when yielded. Repeats until nothing fits, so the caller may report a worker lost in between."""
        for model, line in self._lines.items():
            while line.waiting and (worker := self._least_loaded(model)) is not None:
                job = line.waiting.pop(0).job
                now = self._clock()
                line.taken_at.append(now)
                worker.credits -= 1
                worker.jobs[job.job_id] = _Held(job.epoch, now)
                self._holder[job.job_id] = worker.hello.worker_id
                yield worker.hello.worker_id, job

    def hello(self, hello: Hello) -> None:
        """A worker is there; said again it starts its credits anew (a Claim follows) and keeps its jobs."""
        known = self._workers.get(hello.worker_id)
        self._workers[hello.worker_id] = _Worker(hello, self._clock(), jobs=known.jobs if known else {})

    def claim(self, claim: Claim) -> None:
        """A worker can take more jobs. Raises UnknownWorker."""
        worker = self._known(claim.worker_id)
        if not worker.is_draining:
            worker.credits += max(0, claim.credits)

    def heartbeat(self, heartbeat: Heartbeat) -> tuple[list[JobLost], list[str]]:
        """Renew a worker's leases. Returns the jobs that it should hold and does not know (given to it over a lease
        ago), and the ids that it holds and should not: those are to be cancelled there. Raises UnknownWorker."""
        worker = self._known(heartbeat.worker_id)
        worker.heartbeat = heartbeat
        if worker.is_draining:
            worker.credits = 0
        named = set(heartbeat.job_ids)
        overdue = worker.last_seen - self._lease_s
        lost = [
            self._lose(worker, job_id)
            for job_id, held in list(worker.jobs.items())
            if job_id not in named and held.assigned_at < overdue
        ]
        return lost, [job_id for job_id in heartbeat.job_ids if job_id not in worker.jobs]

    def event(self, worker_id: str, event: Event) -> None:
        """Any event shows that its worker lives; a last one ends the job's lease, if it is of the epoch held there."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return
        worker.last_seen = self._clock()
        held = worker.jobs.get(event.job_id)
        if isinstance(event, Finished | Failed) and held is not None and held.epoch == event.epoch:
            del worker.jobs[event.job_id]
            del self._holder[event.job_id]

    def worker_lost(self, worker_id: str) -> list[JobLost]:
        """The worker is gone; its jobs, each to be reported. Unknown ids are fine."""
        worker = self._workers.pop(worker_id, None)
        return [self._lose(worker, job_id) for job_id in list(worker.jobs)] if worker is not None else []

    def expire(self) -> list[JobLost]:
        """Take workers for lost that were silent for a lease."""
        overdue = self._clock() - self._lease_s
        silent = [worker_id for worker_id, worker in self._workers.items() if worker.last_seen < overdue]
        return [lost for worker_id in silent for lost in self.worker_lost(worker_id)]

    def renew_all(self) -> None:
        """Start every lease anew: the gateway itself stood still, so the silence says nothing about the workers."""
        for worker in self._workers.values():
            worker.last_seen = self._clock()

    def workers(self) -> list[WorkerInfo]:
        """Workers that live now."""
        return [_info(worker) for worker in self._workers.values()]

    def depth(self, model: str) -> int:
        """Jobs that wait for a worker of this model."""
        line = self._lines.get(model)
        return len(line.waiting) if line is not None else 0

    def check(self) -> None:
        """Assert that every job is in one place, every held job has its holder, and no credit is negative."""
        held = [(job_id, worker_id) for worker_id, worker in self._workers.items() for job_id in worker.jobs]
        assert dict(held) == self._holder and len(held) == len(self._holder), "a job is held twice or by a stranger"
        waiting = [entry.job.job_id for line in self._lines.values() for entry in line.waiting]
        assert len(waiting) == len(set(waiting)), "a job waits twice"
        assert not set(waiting) & set(self._holder), "a job waits and is held"
        for model, line in self._lines.items():
            assert line.waiting == sorted(line.waiting), "a line is out of order"
            assert all(entry.job.model == model for entry in line.waiting), "a job waits in another model's line"
        assert all(worker.credits >= 0 for worker in self._workers.values()), "a worker was overdrawn"

    def _known(self, worker_id: str) -> _Worker:
        worker = self._workers.get(worker_id)
        if worker is None:
            raise UnknownWorker(worker_id)
        worker.last_seen = self._clock()
        return worker

    def _lose(self, worker: _Worker, job_id: str) -> JobLost:
        held = worker.jobs.pop(job_id)
        del self._holder[job_id]
        return JobLost(job_id, held.epoch, worker.hello.worker_id)

    def _with_credit(self, model: str) -> list[_Worker]:
        return [worker for worker in self._workers.values() if worker.hello.card.name == model and worker.credits > 0]

    def _has_credit(self, model: str) -> bool:
        return bool(self._with_credit(model))

    def _least_loaded(self, model: str) -> _Worker | None:
        return min(self._with_credit(model), key=lambda worker: (len(worker.jobs), -worker.credits), default=None)


def _info(worker: _Worker) -> WorkerInfo:
    hello, beat = worker.hello, worker.heartbeat
    return WorkerInfo(
        worker_id=hello.worker_id,
        pid=hello.pid,
        card=hello.card,
        state=beat.state if beat else "ready",
        running=beat.running if beat else 0,
        waiting=beat.waiting if beat else 0,
        kv_usage=beat.kv_usage if beat else 0.0,
        metrics=dict(beat.metrics) if beat else {},
    )
