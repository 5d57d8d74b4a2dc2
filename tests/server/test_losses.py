"""Which lost workers are held against a job, and that no job kills workers for ever."""

from collections.abc import AsyncGenerator

import msgspec
import pytest

from schemas.events import Event
from schemas.jobs import ChatJob
from server.inflight import MAX_HANDOVERS
from server.job_stream import TRIAL_TOKENS
from server.transport.base import JobLost
from tests.fakes.memory_queue import MemoryQueue, Script, Teller, WorkerDied, tell
from tests.server.serving import CHAT, ask, client_of

TEXT = "a cat sat on the mat"


def lose(*was_taken: bool) -> Script:
    """Loses a job once for each entry, before any event of it, and then tells TEXT."""

    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        if job.epoch < len(was_taken):
            raise WorkerDied(was_taken=was_taken[job.epoch])
        async for event in tell(TEXT)(job):
            yield event

    return script


@pytest.mark.parametrize(
    "losses", [(False, False, False), (True,), (False, True, False), (True, False, False)], ids=str
)
async def test_a_worker_that_never_began_a_job_is_not_held_against_it(losses: tuple[bool, ...]) -> None:
    async with client_of(MemoryQueue(lose(*losses))) as client:
        answer = await client.post(CHAT, json=ask())
    assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (200, TEXT)


@pytest.mark.parametrize("losses", [(True, True), (True, False, True), (False, True, True)], ids=str)
async def test_a_job_that_two_lost_workers_had_begun_is_failed(losses: tuple[bool, ...]) -> None:
    queue = MemoryQueue(lose(*losses))
    async with client_of(queue) as client:
        answer = await client.post(CHAT, json=ask())
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_error")
    assert len(queue.submitted) == len(losses)


async def test_a_job_that_kills_workers_before_they_can_say_a_word_ends_too() -> None:
    queue = MemoryQueue(lose(*[False] * 100))
    async with client_of(queue) as client:
        answer = await client.post(CHAT, json=ask())
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_error")
    assert len(queue.submitted) == MAX_HANDOVERS


async def test_a_job_that_is_taken_over_says_with_which_media_it_was_begun() -> None:
    digests = (b"picture", b"clip")

    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        yield msgspec.structs.replace(teller.accepted(), media_digests=digests)
        if job.epoch == 0:
            raise WorkerDied
        for word in teller.words(TEXT):
            yield word
        yield teller.finished()

    queue = MemoryQueue(script)
    async with client_of(queue) as client:
        answer = await client.post(CHAT, json=ask())
    assert answer.status_code == 200
    assert [job.media_digests for job in queue.submitted] == [(), digests]


async def test_a_job_is_suspected_from_its_first_loss_on_and_longer_after_each() -> None:
    """Lost without having been on trial: its worker had told enough of it by then, or another one was to blame."""
    deaths = 3

    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        if job.epoch < deaths:
            queue.publish_lost(JobLost(job.job_id, job.epoch, "worker"))
            return
        async for event in tell(TEXT)(job):
            yield event

    queue = MemoryQueue(script)
    async with client_of(queue) as client:
        answer = await client.post(CHAT, json=ask())
    assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (200, TEXT)
    assert [job.trial_tokens for job in queue.submitted] == [0, 4, 64, 1024]


async def test_a_trial_is_as_long_as_it_has_choices() -> None:
    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        if job.epoch == 0:
            raise WorkerDied
        teller = Teller(job)
        yield teller.accepted()
        for index in range(job.n):
            for word in teller.words(TEXT, index):
                yield word
        yield teller.finished()

    queue = MemoryQueue(script)
    async with client_of(queue) as client:
        answer = await client.post(CHAT, json=ask(n=3))
    assert answer.status_code == 200
    assert [job.trial_tokens for job in queue.submitted] == [0, 3 * TRIAL_TOKENS]
