"""POST /v1/chat/completions."""

from contextlib import ExitStack

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from schemas.jobs import ChatJob
from schemas.openai.chat import ChatCompletionRequest, parse_chat_request
from schemas.openai.generation import StreamOptions
from server.admission import Admission
from server.chat_frames import ChunkWriter
from server.collect import collect
from server.fleet import Fleet
from server.inflight import Inflight
from server.json_body import read_json
from server.long_texts import chat_media
from server.routes.steps import let_in
from server.streaming import ChatStream, Patience, cancel_on_disconnect
from server.submit import JobMaker


def chat_router(
    fleet: Fleet, admission: Admission, inflight: Inflight, maker: JobMaker, patience: Patience, max_body_bytes: int
) -> APIRouter:
    """The chat route."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        with ExitStack() as held:
            entry = held.enter_context(let_in(request, fleet, admission))
            body = await read_json(request, max_body_bytes, entry.place.charge, media=chat_media)
            wanted = parse_chat_request(body)
            job = entry.own(maker.chat_job(wanted, entry.tenant, fleet.card(wanted.model)))
            if wanted.stream:
                return ChatStream(job, inflight, _writer(job, wanted), patience, held.pop_all())
            async with inflight.open(job) as stream, cancel_on_disconnect(request.receive, inflight, stream):
                answer = await collect(stream)
        return Response(msgspec.json.encode(answer), media_type="application/json")

    return router


def _writer(job: ChatJob, wanted: ChatCompletionRequest) -> ChunkWriter:
    options = wanted.stream_options or StreamOptions()
    return ChunkWriter(
        job, include_usage=bool(options.include_usage), continuous_usage=bool(options.continuous_usage_stats)
    )
