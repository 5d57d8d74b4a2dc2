"""POST /v1/responses, and what there is to do with a response that was kept."""

from contextlib import ExitStack
from functools import partial

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response as HttpResponse

from schemas.errors import ErrorCode, RequestError
from schemas.openai.response_answers import DeletedResponse, InputItemList, InputTokens, Response
from schemas.openai.response_items import Item
from schemas.openai.responses import ResponsesRequest, parse_input_tokens_request, parse_responses_request
from server.admission import Admission
from server.chat_body import invalid
from server.counting import count_prompt
from server.fleet import Fleet
from server.inflight import Inflight
from server.json_body import read_json
from server.limits.deadline import within
from server.param_names import ParamNames, WithNames
from server.responses.background import BackgroundResponses, unknown
from server.responses.frames import ResponseWriter
from server.responses.pages import page_of, retrieve_query
from server.responses.record import begun, is_stored, size_of_input, stored
from server.responses.store import ResponseStore, StoredResponse
from server.responses.streaming import FrameStream
from server.responses.translate import to_chat
from server.routes.steps import let_in, write_whole
from server.streaming import ChatStream, Patience
from server.submit import JobMaker


def responses_router(
    fleet: Fleet,
    admission: Admission,
    inflight: Inflight,
    maker: JobMaker,
    store: ResponseStore,
    background: BackgroundResponses | None,
    patience: Patience,
    max_body_bytes: int,
) -> APIRouter:
    """The routes of the Responses API. background: None where there is no later."""
    router = APIRouter()

    @router.post("/v1/responses")
    async def create(request: Request) -> HttpResponse:
        names = ParamNames()
        with ExitStack() as held:
            entry = held.enter_context(let_in(request, fleet, admission))
            wanted, passed_on = parse_responses_request(await read_json(request, max_body_bytes, entry.place.charge))
            earlier = _earlier(store, entry.tenant, wanted)
            _check_fits(store, wanted, earlier, entry.place.size_bytes)
            chat = to_chat(wanted, passed_on, earlier.items if earlier else (), names)
            with names.in_errors():
                job = entry.own(maker.chat_job(chat, entry.tenant, fleet.card(chat.model)))
            keep = partial(_keep, store, entry.tenant, wanted, earlier, entry.place.size_bytes)
            first = begun(wanted, chat, job)
            if wanted.background:
                if background is None:
                    raise invalid("background", "this is a request of the background already")
                await background.begin(job, first, keep, held)
                if wanted.stream:
                    return FrameStream(background.frames(entry.tenant, first.id, -1), patience)
                return _json(first)
            writer = ResponseWriter(job, first, keep)
            if wanted.stream:
                return WithNames(ChatStream(job, inflight, writer, patience, held.pop_all()), names)
            with names.in_errors():
                await write_whole(request, inflight, job, writer)
        return _json(writer.response)

    @router.post("/v1/responses/input_tokens")
    async def input_tokens(request: Request) -> HttpResponse:
        names = ParamNames()
        with let_in(request, fleet, admission) as entry:
            wanted, passed_on = parse_input_tokens_request(await read_json(request, max_body_bytes, entry.place.charge))
            earlier = _earlier(store, entry.tenant, wanted)
            chat = to_chat(wanted, passed_on, earlier.items if earlier else (), names)
            with names.in_errors():
                job = within(maker.chat_job(chat, entry.tenant, fleet.card(chat.model)), entry.timeout_s)
                return _json(InputTokens(await count_prompt(request, inflight, job)))

    @router.get("/v1/responses/{response_id}")
    async def retrieve(request: Request, response_id: str) -> HttpResponse:
        query = retrieve_query(request)
        tenant = request.state.tenant
        kept = store.get(tenant, response_id)
        if kept is not None and not query.stream:
            return _json(kept.response)
        found = await background.find(tenant, response_id) if background is not None else None
        if found is None or background is None:
            raise unknown() if kept is None else _not_of_the_background("stream")
        if query.stream:
            last = -1 if query.starting_after is None else query.starting_after
            return FrameStream(background.frames(tenant, response_id, last), patience)
        return HttpResponse(found, media_type="application/json")

    @router.delete("/v1/responses/{response_id}")
    async def delete(request: Request, response_id: str) -> HttpResponse:
        tenant = request.state.tenant
        kept = store.get(tenant, response_id)
        is_plain = kept is not None and not kept.response.background
        was_there = background is not None and not is_plain and await background.forget(tenant, response_id)
        if not store.delete(tenant, response_id) and not was_there:
            raise unknown()
        return _json(DeletedResponse(response_id))

    @router.get("/v1/responses/{response_id}/input_items")
    async def input_items(request: Request, response_id: str) -> HttpResponse:
        return _json(page_of(_found(store, request, response_id).given, request))

    @router.post("/v1/responses/{response_id}/cancel")
    async def cancel(request: Request, response_id: str) -> HttpResponse:
        found = await background.cancel(request.state.tenant, response_id) if background is not None else None
        if found is None:
            _found(store, request, response_id)
            raise _not_of_the_background()
        return HttpResponse(found, media_type="application/json")

    return router


def _earlier(store: ResponseStore, tenant: str, wanted: ResponsesRequest) -> StoredResponse | None:
    if wanted.previous_response_id is None:
        return None
    earlier = store.get(tenant, wanted.previous_response_id)
    if earlier is None:
        message = "The previous response does not exist, or is not kept any more."
        raise RequestError(ErrorCode.PREVIOUS_RESPONSE_NOT_FOUND, message, "previous_response_id")
    if earlier.response.status == "failed":
        message = "Invalid value for 'previous_response_id': that response failed."
        raise RequestError(ErrorCode.INVALID_VALUE, message, "previous_response_id")
    return earlier


def _check_fits(
    store: ResponseStore, wanted: ResponsesRequest, earlier: StoredResponse | None, body_bytes: int
) -> None:
    """A client that counts on its response being kept must hear that it cannot be."""
    if is_stored(wanted) and size_of_input(wanted.input, earlier, body_bytes) > store.max_bytes:
        message = "The conversation is too large to be kept; send it whole, with 'store' false."
        raise RequestError(ErrorCode.INVALID_VALUE, message, "store")


def _keep(
    store: ResponseStore,
    tenant: str,
    wanted: ResponsesRequest,
    earlier: StoredResponse | None,
    body_bytes: int,
    response: Response,
) -> None:
    if is_stored(wanted):
        given: list[Item] = wanted.input
        store.put(tenant, stored(response, given, earlier, body_bytes))


def _found(store: ResponseStore, request: Request, response_id: str) -> StoredResponse:
    found = store.get(request.state.tenant, response_id)
    if found is None:
        raise unknown()
    return found


def _not_of_the_background(param: str | None = None) -> RequestError:
    message = (
        "Only a response of the background can be cancelled, or streamed later, for as long as its events are kept."
    )
    return RequestError(ErrorCode.INVALID_REQUEST, message, param)


def _json(answer: Response | DeletedResponse | InputItemList | InputTokens) -> HttpResponse:
    return HttpResponse(msgspec.json.encode(answer), media_type="application/json")
