"""Steps that the generating routes share: how a request is let in, and how an API's own writer makes a whole answer."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import Request

from schemas.errors import Unavailable
from schemas.events import Event
from schemas.jobs import ChatJob
from server.admission import Admission, Place
from server.fleet import Fleet
from server.inflight import Inflight
from server.limits.deadline import asked_timeout_s, within
from server.streaming import all_events, cancel_on_disconnect
from server.trail import OneJob, Trail


@dataclass(frozen=True, slots=True)
class Entry:
    """A request that was let in. timeout_s: what its client gives it, None where it does not say. trail: where its job
    is noted, None where it is not."""

    tenant: str
    timeout_s: float | None
    place: Place
    trail: Trail | None = None

    def own(self, job: OneJob) -> OneJob:
        """The request's only job, to be done within what its client asked for, as another gateway may have begun it."""
        job = within(job, self.timeout_s)
        return job if self.trail is None else self.trail.own(job)


@contextmanager
def let_in(request: Request, fleet: Fleet, admission: Admission) -> Iterator[Entry]:
    """Hold a place while a request is served; its body is not read. Raises Unavailable, RequestError or Overloaded."""
    if fleet.is_draining:
        raise Unavailable("The server is about to leave.")
    timeout_s = asked_timeout_s(request)
    tenant = request.state.tenant
    with admission.place(tenant) as place:
        yield Entry(tenant, timeout_s, place, getattr(request.state, "trail", None))


class GrowingAnswer(Protocol):
    """A stream's writer, which also holds what was written as one answer."""

    def frames(self, event: Event) -> Iterable[bytes]:
        """What an event brings."""


async def write_whole(request: Request, inflight: Inflight, job: ChatJob, writer: GrowingAnswer) -> None:
    """Run a job to its end; `writer` then holds the whole answer. Raises the error with which the job ends."""
    async with inflight.open(job) as stream, cancel_on_disconnect(request.receive, inflight, stream):
        async for event in all_events(stream):
            for _ in writer.frames(event):
                pass
