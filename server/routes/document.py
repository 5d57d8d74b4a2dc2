"""GET /openapi.json: the API's description for programs."""

from functools import cache

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from server.openapi import openapi_document


def document_router(version: str) -> APIRouter:
    """The document's route."""
    router = APIRouter()

    @router.get("/openapi.json")
    async def openapi() -> Response:
        return Response(_encoded(version), media_type="application/json")

    return router


@cache
def _encoded(version: str) -> bytes:
    """Put together when it is first asked for, as most gateways never are."""
    return msgspec.json.encode(openapi_document(version))
