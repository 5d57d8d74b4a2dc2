"""/v1/batches: many requests from a file, answered in the background. Each key sees its own."""

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from schemas.errors import Unavailable
from schemas.openai.batches import BatchesQuery, BatchRequest
from schemas.openai.files import parse_query
from schemas.openai.strict import validate
from server.admission import Admission
from server.batches.keeper import Batches
from server.fleet import Fleet
from server.json_body import read_json
from server.routes.files import page_of

MAX_BODY_BYTES = 64 * 1024


def batches_router(fleet: Fleet, admission: Admission, batches: Batches) -> APIRouter:
    """The routes of batches."""
    router = APIRouter()

    @router.post("/v1/batches")
    async def create_batch(request: Request) -> Response:
        _refuse_while_draining(fleet)
        with admission.place(request.state.tenant) as place:
            wanted = validate(BatchRequest, await read_json(request, MAX_BODY_BYTES, place.charge))
            batch = await batches.create(request.state.tenant, wanted)
        return _json(batch.wire())

    @router.get("/v1/batches")
    async def list_batches(request: Request) -> Response:
        query = parse_query(BatchesQuery, request.query_params.multi_items())
        found, has_more = await batches.list(request.state.tenant, query)
        return _json(page_of([batch.wire() for batch in found], has_more))

    @router.get("/v1/batches/{batch_id}")
    async def get_batch(request: Request, batch_id: str) -> Response:
        return _json((await batches.get(batch_id, request.state.tenant)).wire())

    @router.post("/v1/batches/{batch_id}/cancel")
    async def cancel_batch(request: Request, batch_id: str) -> Response:
        _refuse_while_draining(fleet)
        return _json((await batches.cancel(batch_id, request.state.tenant)).wire())

    return router


def _refuse_while_draining(fleet: Fleet) -> None:
    if fleet.is_draining:
        raise Unavailable("The server is about to leave.")


def _json(answer: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")
