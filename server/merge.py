"""Several jobs of one request: submitted together, their events taken as they come."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from schemas.events import Event, Finished
from schemas.jobs import Job
from server.inflight import Inflight
from server.job_stream import JobStream

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


async def take_rest(
    streams: Sequence[JobStream], first: Sequence[Tagged], patience_s: float | None = None
) -> AsyncIterator[list[Tagged]]:
    """What follows `first`, until every job has finished; nothing where nothing comes for `patience_s`.

    Raises the error of the first job that fails.
    """
    ended = {at for at, event in first if isinstance(event, Finished)}
    waiting = {asyncio.create_task(one.take()): at for at, one in enumerate(streams) if at not in ended}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            tagged: list[Tagged] = []
            for task in done:
                at = waiting.pop(task)
                events = task.result()
                tagged += [(at, event) for event in events]
                if not isinstance(events[-1], Finished):
                    waiting[asyncio.create_task(streams[at].take())] = at
            yield tagged
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
