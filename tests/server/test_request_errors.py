"""The metric of why requests end with an error: one reason for each, all known beforehand."""

import asyncio
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from schemas.errors import ErrorCode, Overloaded, TooMuch
from server.app import GatewayLimits
from server.errors import REASONS, note_failure
from server.limits.key_limits import KeyLimits
from tests.fakes.memory_queue import MemoryQueue, Script, tell
from tests.server.plays import fail_at, hang_at
from tests.server.serving import CHAT, ask, client_of

SOON = {"x-request-timeout": "0.01"}
ONE_REQUEST = GatewayLimits(of_key=KeyLimits(requests_per_minute=1))
FEW_TOKENS = GatewayLimits(of_key=KeyLimits(tokens_per_minute=100))


async def reasons_of(client: httpx.AsyncClient) -> dict[str, float]:
    text = (await client.get("/metrics")).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        sample.labels["reason"]: sample.value for sample in samples if sample.name == "glimpsed_request_errors_total"
    }


async def counted(client: httpx.AsyncClient) -> dict[str, float]:
    return {reason: value for reason, value in (await reasons_of(client)).items() if value}


def test_reasons_are_the_codes_and_what_there_is_too_much_of() -> None:
    assert REASONS == {*ErrorCode, *TooMuch} - {ErrorCode.RATE_LIMIT_EXCEEDED}


@pytest.mark.parametrize("what", TooMuch)
def test_what_one_key_has_too_much_of_is_a_rate_limit_and_the_rest_a_full_queue(what: TooMuch) -> None:
    is_of_key = what in ("requests_per_minute", "tokens_per_minute", "concurrency", "batches")
    refusal = Overloaded("Too much.", 1.0, what)
    assert refusal.code == ("rate_limit_exceeded" if is_of_key else "queue_full")
    scope: dict[str, Any] = {}
    note_failure(scope, refusal)
    assert scope["state"]["failure"] == what


async def test_every_reason_is_there_from_the_start_and_what_is_served_adds_nothing() -> None:
    async with client_of(MemoryQueue(tell("x"))) as client:
        for stream in (False, True):
            assert (await client.post(CHAT, json=ask(stream=stream))).status_code == 200
        assert await reasons_of(client) == dict.fromkeys(REASONS, 0)


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        (CHAT, ask(model="nope"), "model_not_found"),
        (CHAT, ask(temperature=3), "invalid_value"),
        (CHAT, ask(temprature=0), "unknown_parameter"),
        (CHAT, ask(store=True), "unsupported_parameter"),
        (CHAT, ask("x" * 2_000_000), "context_length_exceeded"),
        ("/v1/completions", {"model": "nope", "prompt": "x"}, "model_not_found"),
        ("/v1/messages", {"model": "nope", "max_tokens": 1, "messages": ask()["messages"]}, "model_not_found"),
        ("/v1/responses", {"model": "nope", "input": "x"}, "model_not_found"),
        ("/v1/nowhere", {}, "not_found"),
        ("/v1/models", {}, "method_not_allowed"),
    ],
)
async def test_a_bad_request_counts_once_by_its_code(path: str, body: dict[str, Any], reason: str) -> None:
    async with client_of(MemoryQueue(tell("x"))) as client:
        assert (await client.post(path, json=body)).status_code in (400, 404, 405)
        assert await counted(client) == {reason: 1}


@pytest.mark.parametrize(
    ("limits", "num_served", "reason"),
    [
        (GatewayLimits(max_in_flight=0), 0, "in_flight"),
        (GatewayLimits(max_bytes_in_flight=10), 0, "bytes_in_flight"),
        (GatewayLimits(of_key=KeyLimits(max_concurrency=0)), 0, "concurrency"),
        (ONE_REQUEST, 1, "requests_per_minute"),
        (FEW_TOKENS, 1, "tokens_per_minute"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_too_much_is_told_apart(
    limits: GatewayLimits, num_served: int, reason: str, stream: bool
) -> None:
    body = ask("x" * 64, max_tokens=80, stream=stream)
    async with client_of(MemoryQueue(tell("one two three")), limits=limits) as client:
        statuses = [(await client.post(CHAT, json=body)).status_code for _ in range(num_served + 1)]
        assert statuses == [200] * num_served + [429]
        assert await counted(client) == {reason: 1}


@pytest.mark.parametrize(
    ("limits", "max_waiting", "reason"),
    [(GatewayLimits(), 1, "queue_full"), (GatewayLimits(max_queue_tokens=10), 9, "queue_tokens")],
)
async def test_a_full_queue_of_jobs_and_one_of_tokens_are_told_apart(
    limits: GatewayLimits, max_waiting: int, reason: str
) -> None:
    queue = MemoryQueue(tell("x"), max_waiting=max_waiting)
    idle, queue.fleet = queue.fleet, []
    async with client_of(queue, limits=limits, expected_models=("demo",)) as client:
        first = asyncio.create_task(client.post(CHAT, json=ask("x" * 100)))
        while not queue.submitted:
            await asyncio.sleep(0)
        assert (await client.post(CHAT, json=ask("x" * 100))).status_code == 429
        assert await counted(client) == {reason: 1}
        queue.fleet = idle
        queue.hand_out()
        assert (await first).status_code == 200


@pytest.mark.parametrize(
    ("script", "headers", "status", "reason"),
    [
        (fail_at(0, "image_parse_error"), {}, 400, "image_parse_error"),
        (fail_at(0, "failed_to_download_video"), {}, 400, "failed_to_download_video"),
        (fail_at(0, "context_length_exceeded"), {}, 400, "context_length_exceeded"),
        (fail_at(0, "a code of a newer worker"), {}, 500, "engine_error"),
        (hang_at(0), SOON, 504, "deadline_exceeded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_job_that_is_not_accepted_counts_once(
    script: Script, headers: dict[str, str], status: int, reason: str, stream: bool
) -> None:
    async with client_of(MemoryQueue(script)) as client:
        assert (await client.post(CHAT, json=ask(stream=stream), headers=headers)).status_code == status
        assert await counted(client) == {reason: 1}


@pytest.mark.parametrize(
    ("script", "headers", "reason"),
    [(fail_at(2), {}, "engine_error"), (hang_at(2), SOON, "deadline_exceeded")],
)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, ask()),
        ("/v1/completions", {"model": "demo", "prompt": "x"}),
        ("/v1/responses", {"model": "demo", "input": "x"}),
        ("/v1/messages", {"model": "demo", "max_tokens": 9, "messages": ask()["messages"]}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_in_the_middle_counts_once_also_where_the_status_is_sent(
    script: Script, headers: dict[str, str], reason: str, path: str, body: dict[str, Any], stream: bool
) -> None:
    async with client_of(MemoryQueue(script)) as client:
        answer = await client.post(path, json=body | {"stream": stream}, headers=headers)
        assert (answer.status_code == 200) == stream
        assert await counted(client) == {reason: 1}


async def test_a_wrong_key_counts_and_an_answer_that_is_joined_counts_its_failure_once() -> None:
    async with client_of(MemoryQueue(fail_at(2)), api_keys=("right",)) as client:
        client.headers["authorization"] = "Bearer right"
        wrong = await client.post(CHAT, json=ask(), headers={"authorization": "Bearer wrong"})
        failed = await client.post(CHAT, json=ask(), headers={"idempotency-key": "one"})
        assert (wrong.status_code, failed.status_code) == (401, 500)
        assert await counted(client) == {"invalid_api_key": 1, "engine_error": 1}
