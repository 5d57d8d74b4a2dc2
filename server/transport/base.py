"""The gateway's end of the queue: what server code may ask of a transport, whichever carries the bytes.

A transport delivers each job to one worker at a time and tells when that worker is lost. It does not redeliver by
itself: the gateway holds the ledger of what the client was already given, so the gateway resubmits (see inflight).
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from schemas.control import ModelCard
from schemas.events import Event
from schemas.jobs import Job
from server.transport.affinity import AffinityCounts
from server.transport.answers import SharedAnswers


@dataclass(frozen=True, slots=True)
class JobLost:
    """The worker that held this job is gone (died, hung or forgot it); events of this epoch will not come any more.

    was_taken: the worker is known to have begun the job; where not, the job may never have got there. A worker that
        hands its jobs back has not been killed by them: for those it is false as well, and for those that ran beside
        one on trial.
    was_on_trial: the worker ended while this job, and no other, was on trial there (see Job.trial_tokens): this one is
        what ends workers.
    """

    job_id: str
    epoch: int
    worker_id: str
    was_taken: bool = True
    was_on_trial: bool = False


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What is known of one worker, from its Hello and its last Heartbeat."""

    worker_id: str
    pid: int
    card: ModelCard
    state: str
    running: int
    waiting: int
    kv_usage: float
    metrics: dict[str, float] = field(default_factory=dict)


class JobQueue(Protocol):
    """One gateway's end of the queue."""

    @property
    def answers(self) -> SharedAnswers | None:
        """Where it shares answers with other gateways; None where there can be no others."""
        ...

    async def start(self) -> None:
        """Open sockets; workers may announce themselves from now on."""
        ...

    async def submit(self, job: Job, *, front: bool = False) -> None:
        """Hand over a job; `front` puts a resumed one before what waits. Raises Overloaded when the model's queue is
        full (never for `front`)."""
        ...

    async def cancel(self, job_id: str) -> None:
        """Forget a job wherever it is; no event need follow. Unknown ids are fine."""
        ...

    def messages(self) -> AsyncIterator[Event | JobLost]:
        """All events for this gateway's jobs, in order per job; ends when the queue is closed."""
        ...

    def workers(self) -> list[WorkerInfo]:
        """Workers that live now."""
        ...

    def depth(self, model: str) -> int:
        """Jobs that wait for a worker of this model."""
        ...

    def affinity(self) -> AffinityCounts:
        """How often this gateway's jobs went to the worker that had their beginning."""
        ...

    def lost_workers(self) -> Mapping[tuple[str, str], int]:
        """How many workers this gateway lost, by model and cause, one of leases.LOSSES."""
        ...

    async def close(self) -> None:
        """Tell workers to drain no further; close sockets."""
        ...
