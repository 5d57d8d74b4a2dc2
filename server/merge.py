"""Several jobs of one request: submitted together, their events taken as they come."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from schemas.events import Event, Finished
from schemas.jobs import Job
from server.inflight import Inflight
from server.job_stream import JobStream, until_news

Tagged = tuple[int, Event]
"""An event with the place of its job in the request."""


@asynccontextmanager
async def open_all(inflight: Inflight, jobs: Sequence[Job]) -> AsyncIterator[list[JobStream]]:
    """Submit all jobs; where one is refused, the others are cancelled. Raises what Inflight.open raises."""
    async with AsyncExitStack() as opened:
        yield [await opened.enter_async_context(inflight.open(job)) for job in jobs]


async def take_first(streams: Sequence[JobStream]) -> list[Tagged]:
    """The first events of every job, Accepted in front: none of them has failed to be prepared. Raises the error of
    one that has. What comes meanwhile waits in the streams, which bound it."""
    return [(at, event) for at, stream in enumerate(streams) for event in await stream.take()]


async def take_rest(streams: Sequence[JobStream], first: Sequence[Tagged]) -> AsyncIterator[list[Tagged]]:
    """What follows `first`, until every job has finished; nothing where a stream is nudged.

    Raises the error of the first job that fails.
    """
    ended = {at for at, event in first if isinstance(event, Finished)}
    left = {at: stream for at, stream in enumerate(streams) if at not in ended}
    while left:
        await until_news(left.values())
        tagged = [(at, event) for at, stream in left.items() for event in stream.take_now()]
        for at, event in tagged:
            if isinstance(event, Finished):
                del left[at]
        yield tagged
