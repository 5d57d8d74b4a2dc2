"""The OpenAPI document: that it lists every route with the fields that it takes."""

import re

from fastapi.routing import APIRoute

from schemas.anthropic.messages import MessagesRequest
from schemas.openai.chat import ChatCompletionRequest
from schemas.openai.parameters import UNSUPPORTED
from schemas.openai.responses import ResponsesRequest
from server.app import create_app
from server.openapi import openapi_document
from tests.fakes.memory_queue import MemoryQueue, tell
from tests.server.serving import client_of


def _routes(routes: list) -> set[tuple[str, str]]:
    """Method and path of each route; a router that was included lazily holds its own."""
    found = set()
    for route in routes:
        if isinstance(route, APIRoute):
            found |= {(method.lower(), re.sub(r":\w+}", "}", route.path)) for method in route.methods}
        elif hasattr(route, "original_router"):
            found |= _routes(route.original_router.routes)
    return {route for route in found if route[0] != "head"}


def _body(path: str) -> dict:
    return openapi_document("1")["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]


async def test_operations_are_the_routes() -> None:
    paths = openapi_document("1")["paths"]
    described = {(method, path) for path, methods in paths.items() for method in methods}
    assert described == _routes(create_app(MemoryQueue(tell("hello"))).routes)


async def test_the_document_is_served() -> None:
    async with client_of(MemoryQueue(tell("hello"))) as client:
        reply = await client.get("/openapi.json")
    assert reply.status_code == 200 and reply.json()["openapi"] == "3.1.0"
    assert reply.json()["paths"].keys() == openapi_document("1")["paths"].keys()


def test_bodies_have_the_fields_of_their_models() -> None:
    chat = _body("/v1/chat/completions")["properties"]
    assert chat.keys() == ChatCompletionRequest.model_fields.keys() | UNSUPPORTED.keys()
    assert chat["store"]["enum"] == [None, [], {}, "", False] and "enum" not in chat["tools"]
    assert _body("/v1/responses")["properties"].keys() > ResponsesRequest.model_fields.keys()
    assert _body("/v1/messages")["properties"].keys() > MessagesRequest.model_fields.keys()
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/messages"):
        assert "model" in _body(path)["required"] and _body(path)["additionalProperties"] is False


def test_lists_have_the_parameters_of_their_pages() -> None:
    for path, names in {
        "/v1/files": {"limit", "order", "after", "purpose"},
        "/v1/batches": {"limit", "after"},
        "/v1/responses/{response_id}/input_items": {"response_id", "limit", "order", "after"},
    }.items():
        assert {one["name"] for one in openapi_document("1")["paths"][path]["get"]["parameters"]} == names
