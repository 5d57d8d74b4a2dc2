"""GET /v1/models and /v1/models/{id}."""

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from schemas.control import ModelCard
from schemas.errors import ErrorCode, RequestError
from schemas.openai.answers import ModelList, ModelObject
from schemas.openai.strict import printable
from server.fleet import Fleet


def models_router(fleet: Fleet) -> APIRouter:
    """The routes that list models."""
    router = APIRouter()

    @router.get("/v1/models")
    async def list_models() -> Response:
        return _json(ModelList(data=[_model(card) for card in fleet.cards().values()]))

    @router.get("/v1/models/{model:path}")
    async def get_model(model: str) -> Response:
        card = fleet.cards().get(model)
        if card is None:
            message = f"The model '{printable(model)}' does not exist."
            raise RequestError(ErrorCode.MODEL_NOT_FOUND, message, "model")
        return _json(_model(card))

    return router


def _model(card: ModelCard) -> ModelObject:
    return ModelObject(
        id=card.name,
        created=card.created,
        max_model_len=card.max_model_len,
        architecture=card.architecture,
        modalities=card.modalities,
    )


def _json(answer: ModelList | ModelObject) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")
