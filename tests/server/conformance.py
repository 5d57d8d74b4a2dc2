"""Requests generated from the gateway's own OpenAPI document, sent to a gateway that really listens."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.fakes.memory_queue import MemoryQueue, tell
from tests.server.serving import listening

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
QUESTIONS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"role": {"enum": ["user"]}, "content": {"type": "string", "minLength": 1}},
        "required": ["role", "content"],
        "additionalProperties": False,
    },
    "minItems": 1,
    "maxItems": 4,
}
FAKE_MODEL = "fake"
NUM_KEPT = 8
"""Files, batches and responses that requests may name."""
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Gateway:
    """A gateway with a client. Where it lives in this process, it runs on the client's loop: two threads would take
    turns at every request."""

    url: str
    client: httpx.AsyncClient
    runner: asyncio.Runner

    def send(self, method: str, path: str, **content: Any) -> httpx.Response:
        """One request; what httpx raises where there is no answer."""
        return self.runner.run(self.client.request(method, self.url + path, **content))

    def send_case(self, case: schemathesis.Case) -> httpx.Response:
        """A generated request, as schemathesis writes it."""
        asked = requests.Request(**case.as_transport_kwargs(base_url=self.url)).prepare()
        content: dict[str, Any] = {"headers": dict(asked.headers), "content": asked.body}
        return self.runner.run(self.client.request(asked.method or "", asked.url or "", **content))


@dataclass(frozen=True)
class Sent:
    """What became of an operation's requests, all of which keep to the document or all of which do not.

    statuses: status -> how many answers had it.
    """

    operation: str
    is_valid: bool
    statuses: Counter[int]


@contextmanager
def fake_gateway(data_dir: Path) -> Iterator[Gateway]:
    """A gateway that listens, before a fake worker that answers hello to everything."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def enter() -> Gateway:
            queue = MemoryQueue(tell("hello"), (FAKE_MODEL,))
            host, port = await stack.enter_async_context(listening(queue, data_dir=data_dir))
            client = await stack.enter_async_context(httpx.AsyncClient(timeout=TIMEOUT_S))
            return Gateway(f"http://{host}:{port}", client, runner)

        try:
            yield runner.run(enter())
        finally:
            runner.run(stack.aclose())


@contextmanager
def gateway_at(url: str) -> Iterator[Gateway]:
    """One that runs elsewhere."""
    with asyncio.Runner() as runner:
        client = httpx.AsyncClient(timeout=TIMEOUT_S)
        try:
            yield Gateway(url, client, runner)
        finally:
            runner.run(client.aclose())


def reachable(document: dict[str, Any], gateway: Gateway, model: str) -> dict[str, Any]:
    """The document, narrowed to what gets beyond the first check: names of models and files that there are, and often a
    conversation of plain questions, as what each role may carry cannot be said in a schema that generators follow."""
    kept = {"model": [model], **_keep(gateway, model)}
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["schema"] = {"type": "string", "enum": [*kept[parameter["name"]], "unknown"]}
    for properties in _properties_of_bodies(document):
        if "model" in properties:
            properties["model"] = {"enum": [model]}
        if "messages" in properties:
            properties["messages"] = {"anyOf": [QUESTIONS, properties["messages"]]}
        for name in ("input_file_id", "previous_response_id"):
            if name in properties:
                properties[name] = {"enum": [*kept[name.removeprefix("input_").removeprefix("previous_")], "unknown"]}
    return document


def send_generated(
    document: dict[str, Any], gateway: Gateway, num_examples: int, seed: int | None = None
) -> Iterator[Sent]:
    """For each operation send so many requests that keep to the document and, if it takes a body or a query, as many
    that do not.

    seed: of the examples; None: always the same ones. Raises what schemathesis raises for a 5xx, for an answer that the
    document does not allow, and for one that accepts what it forbids.
    """
    operations = [found.ok() for found in schemathesis.openapi.from_dict(document).get_all_operations()]
    # What is deleted cannot be asked for.
    for operation in sorted(operations, key=lambda one: one.method == "delete"):
        modes = [GenerationMode.POSITIVE]
        if operation.body or operation.query:
            modes.append(GenerationMode.NEGATIVE)
        for mode in modes:
            statuses = _send(operation.as_strategy(generation_mode=mode), gateway, num_examples, seed)
            yield Sent(operation.label, mode.is_positive, statuses)


def _send(
    cases: SearchStrategy[schemathesis.Case], gateway: Gateway, num_examples: int, seed: int | None
) -> Counter[int]:
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=num_examples,
        derandomize=seed is None,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def send(case: schemathesis.Case) -> None:
        # A form's fields are all texts: what breaks a type in JSON may be right there.
        checks = CHECKS if case.media_type == "multipart/form-data" else [*CHECKS, negative_data_rejection]
        case.body = _as_clients_write(case.body)
        response = gateway.send_case(case)
        statuses[response.status_code] += 1
        case.validate_response(response, checks=checks)

    (send if seed is None else seeded(seed)(send))()
    return statuses


def _as_clients_write(value: Any) -> Any:
    """With 5 for 5.0: to JSON Schema both are integers, while only the first is one to us as to OpenAI."""
    if isinstance(value, dict):
        return {name: _as_clients_write(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_as_clients_write(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _keep(gateway: Gateway, model: str) -> dict[str, list[str]]:
    """Put some of everything there that has an id."""
    kept: dict[str, list[str]] = {"file_id": [], "batch_id": [], "response_id": []}
    body = {"model": model, "input": "Hello", "max_output_tokens": 4}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/responses", "body": body}
    for number in range(NUM_KEPT):
        upload = {"file": (f"{number}.jsonl", json.dumps(line).encode())}
        file = gateway.send("POST", "/v1/files", files=upload, data={"purpose": "batch"}).raise_for_status().json()
        asked = {"input_file_id": file["id"], "endpoint": "/v1/responses", "completion_window": "24h"}
        batch = gateway.send("POST", "/v1/batches", json=asked).raise_for_status().json()
        response = gateway.send("POST", "/v1/responses", json=body).raise_for_status().json()
        for name, made in (("file_id", file), ("batch_id", batch), ("response_id", response)):
            kept[name].append(made["id"])
    return kept


def _properties_of_bodies(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, schema in document["components"]["schemas"].items():
        if name.startswith("request."):
            yield schema.get("properties", {})
    for path in document["paths"].values():
        for body in path.get("post", {}).get("requestBody", {}).get("content", {}).values():
            yield body["schema"].get("properties", {})
