"""POST /v1/tokenize and POST /v1/detokenize: jobs that generate nothing and tell what they know of the prompt."""

import msgspec
from fastapi import APIRouter
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from schemas.errors import GlimpsedError, RequestError
from schemas.events import Accepted
from schemas.jobs import Job
from schemas.openai.answers import Detokenization, Tokenization
from schemas.openai.completion import DetokenizeRequest, parse_tokenize_request
from schemas.openai.strict import validate
from server.admission import Admission
from server.fleet import Fleet
from server.inflight import Inflight
from server.json_body import read_json
from server.limits.deadline import within
from server.long_texts import chat_media
from server.merge import open_all, take_first, take_rest
from server.routes.steps import let_in
from server.streaming import cancel_on_disconnect
from server.submit import JobMaker


def tokenize_router(
    fleet: Fleet, admission: Admission, inflight: Inflight, maker: JobMaker, max_body_bytes: int
) -> APIRouter:
    """Both routes."""
    router = APIRouter()

    @router.post("/v1/tokenize")
    async def tokenize(request: Request) -> Response:
        with let_in(request, fleet, admission) as entry:
            body = await read_json(request, max_body_bytes, entry.place.charge, media=chat_media)
            wanted = parse_tokenize_request(body)
            job = maker.tokenize_job(wanted, entry.tenant, fleet.card(wanted.model))
            found = await _ask(request, inflight, within(job, entry.timeout_s))
        card = fleet.card(wanted.model)
        answer = Tokenization(
            tokens=found.prompt_token_ids or (),
            count=found.prompt_tokens,
            max_model_len=card.max_model_len if card is not None else None,
            image_tokens=found.image_tokens,
            video_tokens=found.video_tokens,
            token_strs=UNSET if found.prompt_token_texts is None else found.prompt_token_texts,
        )
        return Response(msgspec.json.encode(answer), media_type="application/json")

    @router.post("/v1/detokenize")
    async def detokenize(request: Request) -> Response:
        with let_in(request, fleet, admission) as entry:
            wanted = validate(DetokenizeRequest, await read_json(request, max_body_bytes, entry.place.charge))
            fleet.card(wanted.model)
            job = maker.detokenize_job(wanted, entry.tenant)
            try:
                found = await _ask(request, inflight, within(job, entry.timeout_s))
            except GlimpsedError as error:
                if error.param == "prompt":  # which the client calls otherwise here
                    raise RequestError(error.code, "The tokens are not all ids of this model.", "tokens") from None
                raise
        return Response(msgspec.json.encode(Detokenization(found.prompt_text or "")), media_type="application/json")

    return router


async def _ask(request: Request, inflight: Inflight, job: Job) -> Accepted:
    async with open_all(inflight, [job]) as streams, cancel_on_disconnect(request.receive, inflight, *streams):
        first = await take_first(streams)
        async for _ in take_rest(streams, first):
            pass
    accepted = first[0][1]
    assert isinstance(accepted, Accepted)
    return accepted
