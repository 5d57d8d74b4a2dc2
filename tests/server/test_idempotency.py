"""The same request sent twice: one computation, one answer."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pytest

from schemas.events import Event, Failed
from schemas.jobs import Job
from server.app import GatewayLimits
from tests.fakes.memory_queue import MemoryQueue, Script, Teller, WorkerDied, tell
from tests.server.serving import CHAT, ask, chunks_of, client_of, text_of

KEY = {"idempotency-key": "once"}
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"


def body_for(path: str, **parameters: Any) -> dict[str, Any]:
    if path == COMPLETIONS:
        return {"model": "demo", "prompt": "hello", **parameters}
    if path == RESPONSES:
        return {"model": "demo", "input": "hello", **parameters}
    return ask(**({"max_tokens": 50} if path == MESSAGES else {}), **parameters)


class Held:
    """A script that begins to answer and goes on when it is let."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, job: Job) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        yield teller.accepted()
        await self.go_on.wait()
        for delta in teller.words("a cat sat"):
            yield delta
        yield teller.finished()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
async def test_a_repeated_request_gets_the_same_answer_and_is_computed_once(path: str, stream: bool) -> None:
    queue = MemoryQueue(tell("a cat sat"))
    async with client_of(queue) as client:
        first = await client.post(path, json=body_for(path, stream=stream), headers=KEY)
        second = await client.post(path, json=body_for(path, stream=stream), headers=KEY)
    assert first.status_code == second.status_code == 200
    assert first.content == second.content and b"cat" in first.content
    assert first.headers["content-type"] == second.headers["content-type"]
    assert "idempotent-replayed" not in first.headers and second.headers["idempotent-replayed"] == "true"
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert len(queue.submitted) == 1


async def test_without_a_key_or_with_another_each_request_is_its_own() -> None:
    queue = MemoryQueue(tell("x"))
    async with client_of(queue, api_keys=["sk-a", "sk-b"]) as client:
        for headers in ({}, {}, KEY, {"idempotency-key": "twice"}):
            await client.post(CHAT, json=ask(), headers={"authorization": "Bearer sk-a", **headers})
        await client.post(CHAT, json=ask(), headers={"authorization": "Bearer sk-b", **KEY})
    assert len(queue.submitted) == 5


async def test_the_same_key_with_another_body_or_path_is_refused() -> None:
    queue = MemoryQueue(tell("x"))
    async with client_of(queue) as client:
        await client.post(CHAT, json=ask(), headers=KEY)
        for path, body in ((CHAT, ask("other")), (COMPLETIONS, body_for(COMPLETIONS))):
            answer = await client.post(path, json=body, headers=KEY)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "idempotency_key_reused")
            assert answer.json()["error"]["param"] == "idempotency-key"
    assert len(queue.submitted) == 1


@pytest.mark.parametrize("key", ["", " ", "a b", "é".encode(), "x" * 256])
async def test_a_key_that_is_none_is_refused(key: str) -> None:
    async with client_of(MemoryQueue(tell("x"))) as client:
        answer = await client.post(CHAT, json=ask(), headers={"idempotency-key": key})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "idempotency-key")


async def test_a_body_is_refused_as_it_would_be_without_a_key() -> None:
    async with client_of(MemoryQueue(tell("x")), limits=GatewayLimits(max_body_bytes=50)) as client:
        assert (await client.post(CHAT, json=ask("x" * 100), headers=KEY)).status_code == 413
        assert (await client.post(CHAT, content=b"{", headers=KEY)).status_code == 400
        bad = await client.post(CHAT, content=b"{", headers={"content-type": "application/json", **KEY})
        assert bad.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize("stream", [False, True])
async def test_requests_that_come_while_it_runs_join_it(stream: bool) -> None:
    held = Held()
    queue = MemoryQueue(held)
    async with client_of(queue) as client:
        tasks = [asyncio.create_task(client.post(CHAT, json=ask(stream=stream), headers=KEY)) for _ in range(5)]
        await until(lambda: bool(queue.submitted))
        held.go_on.set()
        answers = await asyncio.gather(*tasks)
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 4
    assert len(queue.submitted) == 1


def failing(code: str) -> Script:
    async def script(job: Job) -> AsyncGenerator[Event, None]:
        if len(queue_of(job)) == 1:
            yield Failed(job_id=job.job_id, epoch=0, seq=0, code=code, message="It failed.")
        else:
            async for event in tell("x")(job):
                yield event

    seen: list[str] = []

    def queue_of(job: Job) -> list[str]:
        seen.append(job.job_id)
        return seen

    return script


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("code", "status"),
    [("engine_error", 500), ("queue_full", 429), ("service_unavailable", 503), ("image_too_large", 400)],
)
async def test_a_request_that_failed_is_tried_anew(code: str, status: int, stream: bool) -> None:
    queue = MemoryQueue(failing(code))
    async with client_of(queue) as client:
        assert (await client.post(CHAT, json=ask(stream=stream), headers=KEY)).status_code == status
        assert (await client.post(CHAT, json=ask(stream=stream), headers=KEY)).status_code == 200
    assert len(queue.submitted) == 2


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
async def test_a_stream_that_failed_in_the_middle_is_tried_anew(path: str) -> None:
    is_sound = False

    async def script(job: Job) -> AsyncGenerator[Event, None]:
        async for event in tell("a cat sat")(job):
            yield event
            if not is_sound:
                raise WorkerDied

    queue = MemoryQueue(script)
    async with client_of(queue) as client:
        first = await client.post(path, json=body_for(path, stream=True), headers=KEY)
        is_sound = True
        second = await client.post(path, json=body_for(path, stream=True), headers=KEY)
    assert first.status_code == second.status_code == 200
    assert "idempotent-replayed" not in second.headers
    assert b"sat" in second.content and b"sat" not in first.content


async def test_text_of_a_replayed_stream_is_that_of_the_first() -> None:
    async with client_of(MemoryQueue(tell("a cat sat"))) as client:
        answers: list[httpx.Response] = []
        for _ in range(2):
            answers.append(await client.post(CHAT, json=ask(stream=True), headers=KEY))
    assert [text_of(chunks_of(answer.text)) for answer in answers] == ["a cat sat", "a cat sat"]
