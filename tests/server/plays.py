"""Scripts that tests of several APIs have their worker play."""

import asyncio
from collections.abc import AsyncGenerator

import msgspec

from schemas.events import Delta, Event, Failed, TokenLogprob, TopLogprob
from schemas.jobs import ChatJob, Job
from tests.fakes.memory_queue import Script, Teller, tell


def tell_with(text: str, tool_form: str | None = None, **last: object) -> Script:
    """`text`, in calls of `tool_form`; `last` changes the last delta."""

    async def script(job: Job) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        yield msgspec.structs.replace(teller.accepted(), tool_form=tool_form)
        deltas = teller.words(text)
        for delta in deltas:
            yield msgspec.structs.replace(delta, **last) if delta is deltas[-1] else delta
        yield teller.finished()

    return script


def fail_at(seq: int, code: str = "engine_error", param: str | None = None) -> Script:
    """A failure in the place of the event `seq`."""

    async def script(job: Job) -> AsyncGenerator[Event, None]:
        async for event in tell("a cat sat")(job):
            if event.seq == seq:
                message = f"The engine failed on '{param}'." if param else "The engine failed."
                yield Failed(job_id=job.job_id, epoch=0, seq=seq, code=code, message=message, param=param)
                return
            yield event

    return script


def hang_at(seq: int) -> Script:
    """Nothing any more from the event `seq` on."""

    async def script(job: Job) -> AsyncGenerator[Event, None]:
        async for event in tell("a cat sat")(job):
            if event.seq == seq:
                await asyncio.Event().wait()
            yield event

    return script


async def with_logprobs(job: ChatJob) -> AsyncGenerator[Event, None]:
    """`a cat` with an alternative at each token."""
    async for event in tell("a cat")(job):
        if isinstance(event, Delta):
            raw = event.text.encode()
            top = (TopLogprob(event.text, raw, -0.25), TopLogprob("x", b"x", -2.0))
            event = msgspec.structs.replace(event, logprobs=(TokenLogprob(event.text, raw, -0.25, top),))
        yield event
