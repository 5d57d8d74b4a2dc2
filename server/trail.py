"""What a request's job has been through, so that another gateway can go on with it: who it is and what it said.

The ledger adds each event that it takes in (see job_stream), and only those. Writers are pure functions of a job and
its events: with both, another gateway writes the same frames again, and goes on behind them.
"""

from collections.abc import MutableMapping, Sequence
from typing import TypeVar

import msgspec

from schemas.events import Event, Finished
from schemas.jobs import ChatJob, CompletionJob, Job

OneJob = TypeVar("OneJob", bound=ChatJob | CompletionJob)


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """What is drawn for a job and shows in its answer."""

    job_id: str
    seed: int
    created: int


class Trail:
    """One request's only job. trails: where the ledger looks for it, by job id. identity, events: of a job that another
    gateway began; none of a new one."""

    def __init__(
        self,
        trails: MutableMapping[str, "Trail"],
        identity: Identity | None = None,
        events: Sequence[Event] = (),
    ) -> None:
        self.identity = identity
        self.events = events
        """What the job said before."""
        self._trails = trails
        self._news: list[Event] = []

    def own(self, job: OneJob) -> OneJob:
        """The job as it was begun. Its events come here from now on."""
        if self.identity is None:
            self.identity = Identity(job.job_id, job.sampling.seed, job.created)
        elif self.events:
            sampling = msgspec.structs.replace(job.sampling, seed=self.identity.seed)
            job = msgspec.structs.replace(
                job, job_id=self.identity.job_id, created=self.identity.created, sampling=sampling
            )
        self._trails[job.job_id] = self
        return job

    def queued(self, job: Job, new_id: str) -> Job:
        """The job as this gateway hands it out: one that goes on has an id of its own there, as workers may still know
        the old one from the gateway before."""
        has_ended = bool(self.events) and isinstance(self.events[-1], Finished)
        return msgspec.structs.replace(job, job_id=new_id) if self.events and not has_ended else job

    def add(self, event: Event) -> None:
        """The job has said something new."""
        self._news.append(event)

    def take(self) -> list[Event]:
        """What it has said since the last call."""
        news, self._news = self._news, []
        return news
