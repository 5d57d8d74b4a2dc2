"""POST /v1/completions."""

import asyncio
from contextlib import AbstractContextManager, ExitStack, suppress

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from schemas.errors import GlimpsedError
from schemas.jobs import CompletionJob
from schemas.openai.completion import parse_completion_request
from schemas.openai.generation import StreamOptions
from server.admission import Admission
from server.alarm import Alarm
from server.body_writer import BodyWriter
from server.chat_frames import KEEP_ALIVE
from server.completion_frames import CompletionWriter
from server.errors import error_body, note_failure
from server.fleet import Fleet
from server.inflight import Inflight
from server.job_stream import JobStream
from server.json_body import read_json
from server.limits.deadline import within
from server.merge import Tagged, open_all, take_first, take_rest
from server.routes.steps import let_in
from server.streaming import HEADERS, Patience, cancel_on_disconnect
from server.submit import JobMaker


def completions_router(
    fleet: Fleet, admission: Admission, inflight: Inflight, maker: JobMaker, patience: Patience, max_body_bytes: int
) -> APIRouter:
    """The completions route."""
    router = APIRouter()

    @router.post("/v1/completions")
    async def completions(request: Request) -> Response:
        with ExitStack() as held:
            entry = held.enter_context(let_in(request, fleet, admission))
            wanted = parse_completion_request(await read_json(request, max_body_bytes, entry.place.charge))
            made = maker.completion_jobs(wanted, entry.tenant, fleet.card(wanted.model))
            # Of several the events come in an order that nobody could repeat: such a request is not gone on with.
            jobs = (entry.own(made[0]),) if len(made) == 1 else tuple(within(job, entry.timeout_s) for job in made)
            if wanted.stream:
                options = wanted.stream_options or StreamOptions()
                writer = CompletionWriter(
                    jobs,
                    include_usage=bool(options.include_usage),
                    continuous_usage=bool(options.continuous_usage_stats),
                )
                return CompletionStream(jobs, inflight, writer, patience, held.pop_all())
            async with open_all(inflight, jobs) as streams, cancel_on_disconnect(request.receive, inflight, *streams):
                writer = CompletionWriter(jobs)
                first = await take_first(streams)
                choices = list(writer.choices(first))
                async for tagged in take_rest(streams, first):
                    choices += writer.choices(tagged)
        return Response(msgspec.json.encode(writer.whole(choices)), media_type="application/json")

    return router


class CompletionStream(Response):
    """The streamed answer to a completion request; `held` is given back at its end."""

    def __init__(
        self,
        jobs: tuple[CompletionJob, ...],
        inflight: Inflight,
        writer: CompletionWriter,
        patience: Patience,
        held: AbstractContextManager[object],
    ) -> None:
        super().__init__()
        self._jobs = jobs
        self._inflight = inflight
        self._writer = writer
        self._patience = patience
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve. Raises the error of a job that fails before all are accepted."""
        with self._held:
            async with (
                open_all(self._inflight, self._jobs) as streams,
                cancel_on_disconnect(receive, self._inflight, *streams),
            ):
                first = await take_first(streams)
                await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
                # A client that is gone or does not read is not told; leaving cancels the jobs.
                with suppress(OSError, TimeoutError):
                    # In a task of its own: a chunk then wakes this alone, and not through every layer round it.
                    await asyncio.create_task(self._write(streams, first, scope, send))

    async def _write(self, streams: list[JobStream], first: list[Tagged], scope: Scope, send: Send) -> None:
        def nudge_all() -> None:
            for stream in streams:
                stream.nudge()

        async with BodyWriter(send, self._patience.stall_s) as body:
            try:
                with Alarm(self._patience.keep_alive_s, nudge_all) as silence:
                    await body.write(b"".join(self._writer.frames(first)))
                    silence.set()
                    async for tagged in take_rest(streams, first):
                        await body.write(b"".join(self._writer.frames(tagged)) if tagged else KEEP_ALIVE)
                        silence.set()
                await body.write(b"".join(self._writer.last_frames()), is_last=True)
            except GlimpsedError as error:
                note_failure(scope, error)
                await body.write(b"data: " + error_body(error) + b"\n\n", is_last=True)
