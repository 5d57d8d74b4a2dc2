"""Responses of the background at one gateway, by OpenAI's own client library."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest

from schemas.events import Event
from schemas.jobs import Job
from server.responses import background
from tests.fakes.memory_queue import Teller, tell
from tests.server.plays import fail_at
from tests.server.test_openai_sdk import sdk

ASKED = {"model": "demo", "input": "hello", "background": True}
LARGE = [
    {"role": "user", "content": [{"type": "input_image", "image_url": f"data:image/png;base64,{'A' * (5 << 20)}"}]}
]
KINDS = [
    "response.created", "response.queued", "response.in_progress", "response.output_item.added",
    "response.content_part.added", "response.output_text.delta", "response.output_text.delta",
    "response.output_text.delta", "response.output_text.done", "response.content_part.done",
    "response.output_item.done", "response.completed",
]  # fmt: skip


class Gated:
    """A script that says one word, and the others when it is let."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def __call__(self, job: Job) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        yield teller.accepted()
        for place, delta in enumerate(teller.words("a cat sat")):
            if place == 1:
                await self.gate.wait()
            yield delta
        yield teller.finished()


async def ended(client: openai.AsyncOpenAI, response_id: str) -> Any:
    """A response once it has ended, as a client that asks again and again sees it."""
    while (answer := await client.responses.retrieve(response_id)).status in ("queued", "in_progress"):
        await asyncio.sleep(0.01)
    return answer


async def test_one_is_made_while_nobody_listens() -> None:
    script = Gated()
    async with sdk(script) as (client, queue):
        first = await client.responses.create(**ASKED)
        assert (first.status, first.background, first.output) == ("queued", True, [])
        script.gate.set()
        answer = await ended(client, first.id)
        assert (answer.id, answer.created_at, answer.status) == (first.id, first.created_at, "completed")
        assert answer.output_text == "a cat sat" and answer.usage.output_tokens == 3
        follow_up = await client.responses.create(model="demo", input="and?", previous_response_id=first.id)
        assert follow_up.output_text == "a cat sat"
    assert len(queue.submitted) == 2


async def test_its_events_can_be_had_from_any_on_as_often_as_one_likes() -> None:
    script = Gated()
    async with sdk(script) as (client, queue):
        stream = await client.responses.create(**ASKED, stream=True)
        begun = [await anext(stream) for _ in range(6)]
        await stream.close()
        response_id = begun[0].response.id
        assert (await client.responses.retrieve(response_id)).status == "in_progress"
        script.gate.set()
        rest = await client.responses.retrieve(response_id, stream=True, starting_after=begun[-1].sequence_number)
        events = begun + [event async for event in rest]
        assert [event.sequence_number for event in events] == list(range(len(KINDS)))
        assert [event.type for event in events] == KINDS
        assert events[-1].response.output_text == "a cat sat"
        again = [event async for event in await client.responses.retrieve(response_id, stream=True)]
        assert [event.to_dict() for event in again] == [event.to_dict() for event in events]
        behind = await client.responses.retrieve(response_id, stream=True, starting_after=99)
        assert [event async for event in behind] == []
    assert len(queue.submitted) == 1


async def test_one_can_be_cancelled_while_it_runs_and_not_afterwards() -> None:
    async with sdk(Gated()) as (client, queue):
        stream = await client.responses.create(**ASKED, stream=True)
        begun = [await anext(stream) for _ in range(6)]
        response_id = begun[0].response.id
        cancelled = await client.responses.cancel(response_id)
        assert (cancelled.id, cancelled.status, cancelled.output_text) == (response_id, "cancelled", "a ")
        assert [event async for event in stream] == [], "the stream ends with it"
        assert queue.cancelled == [queue.submitted[0].job_id]
        assert (await client.responses.cancel(response_id)).to_dict() == cancelled.to_dict()
        assert (await client.responses.retrieve(response_id)).status == "cancelled"
        queue.script = tell("x")
        done = await ended(client, (await client.responses.create(**ASKED)).id)
        assert (await client.responses.cancel(done.id)).status == "completed"
        with pytest.raises(openai.NotFoundError):
            await client.responses.cancel("resp_unknown")


@pytest.mark.parametrize("seq", [0, 2])
async def test_one_that_fails_says_so_whenever_it_is_asked_for(seq: int) -> None:
    async with sdk(fail_at(seq)) as (client, _):
        first = await client.responses.create(**ASKED)
        answer = await ended(client, first.id)
        assert (answer.status, answer.error.code) == ("failed", "server_error")
        assert answer.output_text == ("a " if seq else "")
        events = [event async for event in await client.responses.retrieve(first.id, stream=True)]
        assert events[-1].type == "response.failed"
        assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_one_that_is_too_long_fails_and_what_it_said_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "MAX_STREAM_BYTES", 3000)
    script = Gated()
    async with sdk(script) as (client, queue):
        stream = await client.responses.create(**ASKED, stream=True)
        events = [await anext(stream) for _ in range(6)]
        script.gate.set()
        events += [event async for event in stream]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[-1].type == "response.failed"
        answer = await client.responses.retrieve(events[0].response.id)
        assert (answer.status, answer.output_text) == ("failed", "a ")
        assert queue.cancelled == [queue.submitted[0].job_id]


async def test_one_that_is_deleted_is_stopped_and_gone() -> None:
    async with sdk(Gated()) as (client, queue):
        stream = await client.responses.create(**ASKED, stream=True)
        begun = [await anext(stream) for _ in range(6)]
        response_id = begun[0].response.id
        await client.responses.delete(response_id)
        assert queue.cancelled == [queue.submitted[0].job_id]
        for call in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
            with pytest.raises(openai.NotFoundError):
                await call(response_id)


async def test_no_tenant_sees_anothers() -> None:
    async with sdk(tell("x"), api_keys=["sk-a", "sk-b"]) as (client, _):
        owner, other = client.with_options(api_key="sk-a"), client.with_options(api_key="sk-b")
        response_id = (await owner.responses.create(**ASKED)).id
        for call in (other.responses.retrieve, other.responses.cancel, other.responses.delete):
            with pytest.raises(openai.NotFoundError):
                await call(response_id)
        with pytest.raises(openai.NotFoundError):
            await other.responses.retrieve(response_id, stream=True)
        assert (await ended(owner, response_id)).output_text == "x"


async def test_what_makes_no_sense_is_refused_by_name() -> None:
    async with sdk(tell("x")) as (client, queue):
        plain = await client.responses.create(model="demo", input="hello")
        refused = [
            (client.responses.create(**ASKED, store=False), "background"),
            (client.responses.create(**{**ASKED, "input": LARGE}), "background"),
            (client.responses.retrieve(plain.id, stream=True), "stream"),
            (client.responses.retrieve(plain.id, extra_query={"starting_after": "3"}), "starting_after"),
            (
                client.responses.retrieve(plain.id, extra_query={"stream": "true", "starting_after": "x"}),
                "starting_after",
            ),
        ]
        for call, param in refused:
            with pytest.raises(openai.BadRequestError) as refusal:
                await call
            assert refusal.value.param == param
    assert len(queue.submitted) == 1
