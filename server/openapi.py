"""The OpenAPI document: what each route takes and gives, by the models that check requests and the answers' structs.

The routes read their bodies themselves, so the framework cannot know them; openapi_routes lists them.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from schemas.errors import ErrorCode
from server.errors import ANSWERS, ANTHROPIC_ANSWERS, BAD_REQUEST, is_anthropic
from server.openapi_routes import OPERATIONS, Operation, Takes

Schema = dict[str, Any]

REQUEST = "#/components/schemas/request."
ANSWER = "#/components/schemas/answer."
NOT_SERVED = "Not served; a value that asks for nothing is let through."
UPLOAD: Schema = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": ["batch"]},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer"},
    },
    "required": ["file", "purpose"],
    "additionalProperties": False,
}


def openapi_document(version: str) -> Schema:
    """The document, of version 3.1 of OpenAPI."""
    requests, request_components = _request_schemas()
    answers, answer_components = _answer_schemas()
    paths: dict[str, Schema] = {}
    for operation in OPERATIONS:
        described = _operation(operation, requests, answers)
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {"title": "glimpsed", "version": version},
        "paths": paths,
        "components": {
            "schemas": {
                **request_components,
                **answer_components,
                "error": _openai_error(),
                "anthropic": _anthropic_error(),
            },
            "responses": {
                "Error": _json_response("An error", {"$ref": "#/components/schemas/error"}),
                "AnthropicError": _json_response("An error", {"$ref": "#/components/schemas/anthropic"}),
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _operation(operation: Operation, requests: dict[Takes, Schema], answers: dict[type, Schema]) -> Schema:
    described: Schema = {
        "summary": operation.summary,
        "responses": {"200": _success(operation, answers), **_errors(operation)},
    }
    parameters = [*_path_parameters(operation.path), *_query_parameters(operation.query)]
    if parameters:
        described["parameters"] = parameters
    if operation.takes is not None:
        content = {"application/json": {"schema": requests[operation.takes]}}
        described["requestBody"] = {"required": True, "content": content}
    elif operation.is_upload:
        described["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": UPLOAD}}}
    return described


def _success(operation: Operation, answers: dict[type, Schema]) -> Schema:
    if isinstance(operation.gives, str):
        return {"description": "Success", "content": {operation.gives: {"schema": {"type": "string"}}}}
    response = _json_response("Success", answers[operation.gives])
    if operation.is_streamed:
        # No schema: some tools hold it against each event, others against the whole body.
        response["content"]["text/event-stream"] = {}
    return response


def _errors(operation: Operation) -> Schema:
    name = "AnthropicError" if is_anthropic(operation.path) else "Error"
    table = ANSWERS | (ANTHROPIC_ANSWERS if is_anthropic(operation.path) else {})
    statuses = {BAD_REQUEST[0], *(status for status, _ in table.values())}
    errors: Schema = {str(status): {"$ref": f"#/components/responses/{name}"} for status in sorted(statuses)}
    if operation.is_probe:
        errors["503"] = _json_response("Not ready", {"type": "object"})
    return errors


def _path_parameters(path: str) -> Iterator[Schema]:
    for name in re.findall(r"{(\w+)}", path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _query_parameters(query: type[BaseModel] | None) -> Iterator[Schema]:
    if query is None:
        return
    schema = query.model_json_schema()
    for name, one in schema["properties"].items():
        # A URL has no null: what may be null may be left out.
        known = [choice for choice in one.get("anyOf", [one]) if choice.get("type") != "null"]
        yield {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": known[0]}


def _request_schemas() -> tuple[dict[Takes, Schema], dict[str, Schema]]:
    """Each body's schema, and the components that they refer to."""
    takes = list(dict.fromkeys(operation.takes for operation in OPERATIONS if operation.takes is not None))
    models = dict.fromkeys(model for one in takes for model in (one.model, one.passed_to) if model is not None)
    refs, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=REQUEST + "{model}"
    )
    components: dict[str, Schema] = definitions["$defs"]

    def schema_of(model: type[BaseModel]) -> Schema:
        return components[refs[model, "validation"]["$ref"].removeprefix(REQUEST)]

    bodies = {}
    for one in takes:
        own = schema_of(one.model)
        properties, required = dict(own["properties"]), set(own.get("required", ()))
        if one.passed_to is not None:
            passed_to = schema_of(one.passed_to)
            properties |= {name: passed_to["properties"][name] for name in sorted(one.passed_on)}
            required |= one.passed_on & set(passed_to.get("required", ()))
        properties = {name: value for name, value in properties.items() if one.only is None or name in one.only}
        properties |= {name: {"anyOf": [more, properties[name]]} for name, more in one.also.items()}
        neutral = {name: {"description": NOT_SERVED, "enum": list(values)} for name, values in one.neutral.items()}
        properties = neutral | properties
        bodies[one] = {**own, "properties": properties, "required": sorted(required)}
    return bodies, {f"request.{name}": schema for name, schema in components.items()}


def _answer_schemas() -> tuple[dict[type, Schema], dict[str, Schema]]:
    """Each answer's schema, and the components that they refer to."""
    types: Sequence[type] = list(dict.fromkeys(one.gives for one in OPERATIONS if not isinstance(one.gives, str)))
    schemas, components = msgspec.json.schema_components(types, ref_template=ANSWER + "{name}")
    return dict(zip(types, schemas, strict=True)), {f"answer.{name}": schema for name, schema in components.items()}


def _json_response(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _openai_error() -> Schema:
    fields = {
        "message": {"type": "string"},
        "type": {"enum": sorted({BAD_REQUEST[1], *(kind for _, kind in ANSWERS.values())})},
        "param": {"type": ["string", "null"]},
        "code": {"enum": sorted(ErrorCode)},
    }
    return _closed({"error": _closed(fields)})


def _anthropic_error() -> Schema:
    table = ANSWERS | ANTHROPIC_ANSWERS
    kinds = sorted({BAD_REQUEST[1], *(kind for _, kind in table.values())})
    fields = {"type": {"enum": kinds}, "message": {"type": "string"}}
    return _closed({"type": {"const": "error"}, "error": _closed(fields)})


def _closed(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
