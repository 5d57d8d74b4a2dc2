"""A chat job's events as server-sent events, written as they come.

The status is sent once the job is accepted; a failure before that is an ordinary error answer. A later one is an
error event and the end of the stream. How frames look is the writer's affair: there is one for each API.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from schemas.errors import GlimpsedError
from schemas.events import Event, Finished
from schemas.jobs import ChatJob
from server.alarm import Alarm
from server.body_writer import BodyWriter
from server.errors import note_failure
from server.inflight import Inflight
from server.job_stream import JobStream

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class Patience:
    """keep_alive_s: silence after which a comment is sent. stall_s: how long a client may not read before it is
    dropped."""

    keep_alive_s: float = 15.0
    stall_s: float = 30.0


@asynccontextmanager
async def cancel_on_disconnect(receive: Receive, inflight: Inflight, *streams: JobStream) -> AsyncIterator[None]:
    """While inside, the client's leaving ends the jobs at once. The request's body must have been read."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        for stream in streams:
            await inflight.abandon(stream)

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher


class FrameWriter(Protocol):
    """What a stream's client is told, in bytes ready to be sent."""

    def frames(self, event: Event) -> Iterable[bytes]:
        """What an event brings."""

    def failure(self, error: GlimpsedError) -> bytes:
        """The end of a stream that was begun and fails."""

    def keep_alive(self) -> bytes:
        """What breaks a silence."""


class ChatStream(Response):
    """The streamed answer to one chat job; `held` is given back at its end."""

    def __init__(
        self,
        job: ChatJob,
        inflight: Inflight,
        writer: FrameWriter,
        patience: Patience,
        held: AbstractContextManager[object],
    ) -> None:
        super().__init__()
        self._job = job
        self._inflight = inflight
        self._writer = writer
        self._patience = patience
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve. Raises the job's error if it fails before it is accepted."""
        with self._held:
            async with self._inflight.open(self._job) as stream, cancel_on_disconnect(receive, self._inflight, stream):
                events = await stream.take()
                await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
                # A client that is gone or does not read is not told; leaving cancels the job.
                with suppress(OSError, TimeoutError):
                    # In a task of its own: a chunk then wakes this alone, and not through every layer round it.
                    await asyncio.create_task(self._write(stream, events, scope, send))

    async def _write(self, stream: JobStream, events: list[Event], scope: Scope, send: Send) -> None:
        async with BodyWriter(send, self._patience.stall_s) as body:
            try:
                with Alarm(self._patience.keep_alive_s, stream.nudge) as silence:
                    while not (events and isinstance(events[-1], Finished)):
                        await body.write(self._frames(events) if events else self._writer.keep_alive())
                        silence.set()
                        events = await stream.take()
                await body.write(self._frames(events), is_last=True)
            except GlimpsedError as error:
                note_failure(scope, error)
                await body.write(self._writer.failure(error), is_last=True)

    def _frames(self, events: list[Event]) -> bytes:
        return b"".join([frame for event in events for frame in self._writer.frames(event)])


async def all_events(stream: JobStream) -> AsyncIterator[Event]:
    """Each event of a job until it has finished. Raises the error with which it ends."""
    while True:
        for event in await stream.take():
            yield event
            if isinstance(event, Finished):
                return
