"""The events of several jobs, taken by one who waits for all of them at once."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from schemas.errors import EngineError
from schemas.events import Event
from schemas.jobs import CompletionJob
from server.app import GatewayLimits
from server.chat_frames import KEEP_ALIVE
from server.job_stream import JobStream
from server.merge import Tagged, take_rest
from server.metrics import JobMetrics
from server.streaming import Patience
from tests.fakes.memory_queue import MemoryQueue, Teller
from tests.fakes.messages import accepted, chat_job, delta
from tests.server.serving import Exchange, chunks_of, running


def stream(job_id: str) -> JobStream:
    metrics = JobMetrics(CollectorRegistry(), time.monotonic)
    return JobStream(chat_job(job_id), time.monotonic, metrics.watch("tiny"))


async def begun(*job_ids: str) -> tuple[list[JobStream], AsyncIterator[list[Tagged]]]:
    """Streams whose first event was taken, and what follows."""
    streams = [stream(job_id) for job_id in job_ids]
    for one in streams:
        one.append(accepted(one.job.job_id))
        await one.take()
    return streams, take_rest(streams, [(at, accepted(job_id)) for at, job_id in enumerate(job_ids)])


def next_of(rest: AsyncIterator[list[Tagged]]) -> asyncio.Task[list[Tagged]]:
    async def taken() -> list[Tagged]:
        return await anext(rest)

    return asyncio.create_task(taken())


async def turn() -> None:
    """Let whoever was woken come to its next wait."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_came_of_all_jobs_in_between_is_taken_at_once_and_in_order() -> None:
    streams, rest = await begun("a", "b")
    for place in range(2):
        for one in streams:
            one.append(delta(one.job.job_id, place))
    expected = [(at, delta(job_id, place)) for at, job_id in enumerate("ab") for place in range(2)]
    assert await anext(rest) == expected


@pytest.mark.parametrize("place", [0, 1])
async def test_whichever_job_has_news_wakes_the_one_who_waits(place: int) -> None:
    streams, rest = await begun("a", "b")
    waiting = next_of(rest)
    await turn()
    assert not waiting.done()
    streams[place].append(delta("ab"[place], 0))
    assert await waiting == [(place, delta("ab"[place], 0))]


async def test_a_nudge_brings_nothing_and_loses_nothing() -> None:
    streams, rest = await begun("a", "b")
    waiting = next_of(rest)
    await turn()
    streams[1].nudge()
    streams[0].nudge()
    assert await waiting == []
    streams[0].append(delta("a", 0))
    assert await anext(rest) == [(0, delta("a", 0))]


async def test_one_job_that_fails_ends_it_with_its_error() -> None:
    streams, rest = await begun("a", "b")
    waiting = next_of(rest)
    await turn()
    streams[1].fail(EngineError("broken"))
    with pytest.raises(EngineError, match="broken"):
        await waiting


async def test_who_stops_waiting_is_not_woken_any_more() -> None:
    streams, rest = await begun("a", "b")
    waiting = next_of(rest)
    await turn()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    streams[0].append(delta("a", 0))
    assert await streams[0].take() == [delta("a", 0)]


async def test_silence_is_filled_with_comments_also_when_one_of_the_jobs_has_ended() -> None:
    go_on = asyncio.Event()

    async def script(job: CompletionJob) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        yield teller.accepted()
        if job.prompt == "second":
            await go_on.wait()
        for one in teller.words("a cat"):
            yield one
        yield teller.finished()

    limits = GatewayLimits(patience=Patience(keep_alive_s=0.005))
    body = {"model": "demo", "prompt": ["first", "second"], "stream": True}
    async with (
        running(MemoryQueue(script), limits=limits) as app,
        Exchange(app, body, path="/v1/completions") as exchange,
    ):
        assert await exchange.status() == 200
        while await exchange.next_body() != KEEP_ALIVE:
            pass
        assert await exchange.next_body() == KEEP_ALIVE
        go_on.set()
        rest = chunks_of((await exchange.rest()).replace(KEEP_ALIVE, b""))
    assert [choice["text"] for chunk in rest for choice in chunk["choices"]] == ["a ", "cat"]
