"""Who is alive and who holds which job, as one gateway knows it: plain data, no sockets, no clock of its own.

Every transport tells it what it hears; it answers with the jobs whose lease is over. A lost worker's jobs are reported
once and forgotten: what becomes of them is the ledger's business.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from schemas.control import STALLED, Goodbye, Heartbeat, Hello
from schemas.events import Delta, Event, Failed, Finished
from schemas.wire import LEASE_S
from server.transport.base import JobLost, WorkerInfo

ARRIVAL_S = 60.0
"""How long a job may be on its way to a worker that shows that it lives. A message of many megabytes takes long where
other programs have the cores; taken for lost too soon it is sent again, behind itself, and so comes later and later."""


LEFT = "left"
DIED, SILENT, FAILED, HUNG = LOSSES = ("died", "silent", "failed", "hung")
"""Why a worker is gone: it drained and is no loss; or its process ended without a word, nothing was heard of it for a
lease, it said that its backend cannot go on, or that a step did not end."""


class UnknownWorker(Exception):
    """The worker speaks without having said Hello to this gateway (which restarted, or took it for lost)."""


@dataclass(slots=True)
class _Held:
    """since: when it was handed out or, later, taken. trial_tokens: how many must still come until it is suspected no
    more."""

    epoch: int
    since: float
    is_taken: bool
    trial_tokens: int


@dataclass(slots=True)
class _Worker:
    hello: Hello
    last_seen: float
    heartbeat: Heartbeat | None = None
    jobs: dict[str, _Held] = field(default_factory=dict)


class Leases:
    """Workers and the jobs that each holds.

    clock: seconds, monotonic. lease_s: silence after which a worker is taken for lost.
    """

    def __init__(self, clock: Callable[[], float], lease_s: float = LEASE_S) -> None:
        self._clock = clock
        self._lease_s = lease_s
        self.lost_workers: Counter[tuple[str, str]] = Counter()
        """How many workers were lost, by model and cause."""
        self._workers: dict[str, _Worker] = {}
        self._holder: dict[str, str] = {}

    def hello(self, hello: Hello) -> None:
        """A worker is there; said again, it keeps its jobs and what was known of it."""
        known = self._workers.setdefault(hello.worker_id, _Worker(hello, 0.0))
        known.last_seen = self._clock()

    def saw(self, worker_id: str) -> None:
        """The worker gave a sign of life. Raises UnknownWorker."""
        self._known(worker_id).last_seen = self._clock()

    def heartbeat(self, heartbeat: Heartbeat) -> tuple[list[JobLost], list[str]]:
        """Renew a worker's leases. Returns the jobs that it should hold and does not know (taken over a lease ago, or
        too long on their way), and the ids that it holds and should not: those are to be cancelled there. Raises
        UnknownWorker."""
        worker = self._known(heartbeat.worker_id)
        worker.last_seen = self._clock()
        worker.heartbeat = heartbeat
        named = set(heartbeat.job_ids)
        for job_id in named & worker.jobs.keys():
            worker.jobs[job_id].is_taken = True
        lost = [
            self._lose(worker, job_id)
            for job_id, held in list(worker.jobs.items())
            if job_id not in named and worker.last_seen - held.since > (self._lease_s if held.is_taken else ARRIVAL_S)
        ]
        return lost, [job_id for job_id in heartbeat.job_ids if job_id not in worker.jobs]

    def hold(self, worker_id: str, job_id: str, epoch: int, *, is_taken: bool = True, trial_tokens: int = 0) -> None:
        """A job is now with this worker, or on its way there (not `is_taken`). Raises UnknownWorker."""
        self._known(worker_id).jobs[job_id] = _Held(epoch, self._clock(), is_taken, trial_tokens)
        self._holder[job_id] = worker_id

    def taken(self, worker_id: str, job_id: str, epoch: int) -> None:
        """The worker says that it begins a job. Raises UnknownWorker."""
        worker = self._known(worker_id)
        worker.last_seen = self._clock()
        held = worker.jobs.get(job_id)
        if held is not None and held.epoch == epoch:
            # A heartbeat that does not name it yet may still be on its way.
            held.is_taken, held.since = True, worker.last_seen

    def release(self, job_id: str) -> str | None:
        """Forget a job. Returns the worker that holds it, if there is one."""
        worker_id = self._holder.pop(job_id, None)
        if worker_id is not None:
            del self._workers[worker_id].jobs[job_id]
        return worker_id

    def event(self, worker_id: str, event: Event) -> None:
        """Any event shows that its worker lives and, if it is of the epoch held there, that the job was begun; a last
        one ends the job's lease."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return
        worker.last_seen = self._clock()
        held = worker.jobs.get(event.job_id)
        if held is not None and held.epoch == event.epoch:
            held.is_taken = True
            if isinstance(event, Finished | Failed):
                self.release(event.job_id)
            elif held.trial_tokens and isinstance(event, Delta):
                held.trial_tokens = max(0, held.trial_tokens - len(event.token_ids))

    def worker_lost(self, worker_id: str, cause: str = DIED) -> list[JobLost]:
        """The worker is gone; its jobs, each to be reported: the one that was on trial as what ended it, and then none
        of the others. Unknown ids are fine."""
        worker = self._workers.pop(worker_id, None)
        if worker is None:
            return []
        if cause != LEFT:
            self.lost_workers[worker.hello.card.name, cause] += 1
        on_trial = [job_id for job_id, held in worker.jobs.items() if held.is_taken and held.trial_tokens]
        lost = [self._lose(worker, job_id) for job_id in list(worker.jobs)]
        if len(on_trial) != 1:
            return lost
        return [_convicted(job) if job.job_id in on_trial else _spared(job) for job in lost]

    def goodbye(self, goodbye: Goodbye) -> list[JobLost]:
        """The worker leaves; its jobs, each to be reported. Without a reason it hands them back, as its time to drain
        is over: then none of them is held against the job."""
        if not goodbye.reason:
            return [_spared(job) for job in self.worker_lost(goodbye.worker_id, LEFT)]
        return self.worker_lost(goodbye.worker_id, HUNG if goodbye.reason == STALLED else FAILED)

    def expire(self) -> list[JobLost]:
        """Take workers for lost that were silent for a lease."""
        overdue = self._clock() - self._lease_s
        silent = [worker_id for worker_id, worker in self._workers.items() if worker.last_seen < overdue]
        return [lost for worker_id in silent for lost in self.worker_lost(worker_id, SILENT)]

    def renew_all(self) -> None:
        """Start every lease anew: this gateway itself heard nothing, so the silence says nothing about the workers."""
        for worker in self._workers.values():
            worker.last_seen = self._clock()

    def holder_of(self, job_id: str) -> str | None:
        """The worker that holds a job, if there is one."""
        return self._holder.get(job_id)

    def epoch_of(self, job_id: str) -> int | None:
        """The epoch of a job that is held."""
        worker_id = self._holder.get(job_id)
        return self._workers[worker_id].jobs[job_id].epoch if worker_id is not None else None

    def held(self) -> list[str]:
        """The ids of all jobs that are with a worker."""
        return list(self._holder)

    def num_held_by(self, worker_id: str) -> int:
        """How many jobs a known worker holds."""
        return len(self._workers[worker_id].jobs)

    def has_one_on_trial(self, worker_id: str) -> bool:
        """Whether a known worker has a suspected job, or is sent one."""
        return any(held.trial_tokens for held in self._workers[worker_id].jobs.values())

    def num_at(self, worker_id: str) -> int:
        """How many jobs a known worker has: those held for this gateway, or what it said itself, if that is more."""
        worker = self._workers[worker_id]
        said = worker.heartbeat.running + worker.heartbeat.waiting if worker.heartbeat is not None else 0
        return max(len(worker.jobs), said)

    def model_of(self, worker_id: str) -> str:
        """The name of the model that a known worker holds."""
        return self._workers[worker_id].hello.card.name

    def is_known(self, worker_id: str) -> bool:
        """Whether the worker lives, as far as is known."""
        return worker_id in self._workers

    def is_draining(self, worker_id: str) -> bool:
        """Whether a known worker takes no more jobs."""
        heartbeat = self._workers[worker_id].heartbeat
        return heartbeat is not None and heartbeat.state == "draining"

    def hellos(self) -> list[Hello]:
        """How each worker that lives introduced itself."""
        return [worker.hello for worker in self._workers.values()]

    def workers(self) -> list[WorkerInfo]:
        """Workers that live now."""
        return [_info(worker) for worker in self._workers.values()]

    def check(self) -> None:
        """Assert that every held job has its one holder."""
        held = [(job_id, worker_id) for worker_id, worker in self._workers.items() for job_id in worker.jobs]
        assert dict(held) == self._holder and len(held) == len(self._holder), "a job is held twice or by a stranger"

    def _known(self, worker_id: str) -> _Worker:
        worker = self._workers.get(worker_id)
        if worker is None:
            raise UnknownWorker(worker_id)
        return worker

    def _lose(self, worker: _Worker, job_id: str) -> JobLost:
        held = worker.jobs.pop(job_id)
        del self._holder[job_id]
        return JobLost(job_id, held.epoch, worker.hello.worker_id, held.is_taken)


def _convicted(job: JobLost) -> JobLost:
    return replace(job, was_on_trial=True)


def _spared(job: JobLost) -> JobLost:
    return replace(job, was_taken=False, was_on_trial=False)


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
