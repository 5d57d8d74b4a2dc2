"""Anthropic's POST /v1/messages and POST /v1/messages/count_tokens."""

from contextlib import ExitStack

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from schemas.anthropic.answers import TokensCount
from schemas.anthropic.messages import parse_count_tokens_request, parse_messages_request
from server.admission import Admission
from server.anthropic.frames import MessageWriter
from server.anthropic.translate import to_chat
from server.counting import count_prompt
from server.errors import ANTHROPIC_PATH
from server.fleet import Fleet
from server.inflight import Inflight
from server.json_body import read_json
from server.limits.deadline import within
from server.long_texts import anthropic_media
from server.param_names import ParamNames, WithNames
from server.routes.steps import let_in, write_whole
from server.streaming import ChatStream, Patience
from server.submit import JobMaker


def messages_router(
    fleet: Fleet, admission: Admission, inflight: Inflight, maker: JobMaker, patience: Patience, max_body_bytes: int
) -> APIRouter:
    """Both routes."""
    router = APIRouter()

    @router.post(ANTHROPIC_PATH)
    async def messages(request: Request) -> Response:
        names = ParamNames()
        with ExitStack() as held:
            entry = held.enter_context(let_in(request, fleet, admission))
            body = await read_json(request, max_body_bytes, entry.place.charge, media=anthropic_media)
            wanted, passed_on = parse_messages_request(body)
            chat = to_chat(wanted, passed_on, names)
            with names.in_errors():
                job = entry.own(maker.chat_job(chat, entry.tenant, fleet.card(chat.model)))
            writer = MessageWriter(job)
            if wanted.stream:
                return WithNames(ChatStream(job, inflight, writer, patience, held.pop_all()), names)
            with names.in_errors():
                await write_whole(request, inflight, job, writer)
        return Response(msgspec.json.encode(writer.message), media_type="application/json")

    @router.post(f"{ANTHROPIC_PATH}/count_tokens")
    async def count_tokens(request: Request) -> Response:
        names = ParamNames()
        with let_in(request, fleet, admission) as entry:
            body = await read_json(request, max_body_bytes, entry.place.charge, media=anthropic_media)
            wanted, passed_on = parse_count_tokens_request(body)
            chat = to_chat(wanted, passed_on, names)
            with names.in_errors():
                job = within(maker.chat_job(chat, entry.tenant, fleet.card(chat.model)), entry.timeout_s)
                num_tokens = await count_prompt(request, inflight, job)
        return Response(msgspec.json.encode(TokensCount(num_tokens)), media_type="application/json")

    return router
