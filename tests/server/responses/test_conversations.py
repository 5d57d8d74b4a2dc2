"""Responses that are kept: going on from them, reading and deleting them; by OpenAI's own client library."""

from typing import Any

import openai
import pytest

from schemas.jobs import ImagePart
from server.app import GatewayLimits
from server.responses.store import StoreLimits
from tests.fakes.memory_queue import tell
from tests.server.responses.test_sdk import PNG, texts
from tests.server.test_openai_sdk import sdk


def with_key(client: openai.AsyncOpenAI, key: str) -> openai.AsyncOpenAI:
    return client.with_options(api_key=key)


async def test_a_conversation_goes_on_from_its_last_response() -> None:
    async with sdk(tell("one")) as (client, queue):
        first = await client.responses.create(model="demo", input="1?", instructions="Count.")
        queue.script = tell("two")
        second = await client.responses.create(model="demo", input="2?", previous_response_id=first.id)
        async with client.responses.stream(model="demo", input="3?", previous_response_id=second.id) as stream:
            third = await stream.get_final_response()
        await client.responses.create(model="demo", input="4?", previous_response_id=third.id, instructions="Stop.")
    assert (second.previous_response_id, third.previous_response_id) == (first.id, second.id)
    assert [texts(message) for message in queue.submitted[-1].messages] == [
        ("system", "Stop."),
        ("user", "1?"),
        ("assistant", "one"),
        ("user", "2?"),
        ("assistant", "two"),
        ("user", "3?"),
        ("assistant", "two"),
        ("user", "4?"),
    ]


async def test_two_conversations_may_go_on_from_one_response() -> None:
    async with sdk(tell("x")) as (client, queue):
        first = await client.responses.create(model="demo", input="1?")
        for question in ("2?", "other?"):
            await client.responses.create(model="demo", input=question, previous_response_id=first.id)
    assert [[texts(message)[1] for message in job.messages] for job in queue.submitted] == [
        ["1?"],
        ["1?", "x", "2?"],
        ["1?", "x", "other?"],
    ]


async def test_a_picture_of_an_earlier_turn_is_seen_again() -> None:
    content: Any = [{"type": "input_image", "image_url": PNG, "detail": "auto"}]
    async with sdk(tell("x"), limits=GatewayLimits(max_images=1)) as (client, queue):
        first = await client.responses.create(model="demo", input=[{"role": "user", "content": content}])
        await client.responses.create(model="demo", input="And?", previous_response_id=first.id)
        assert isinstance(queue.submitted[1].messages[0].parts[0], ImagePart)
        with pytest.raises(openai.BadRequestError) as refusal:
            again: Any = [{"role": "user", "content": content}]
            await client.responses.create(model="demo", input=again, previous_response_id=first.id)
    assert (refusal.value.code, refusal.value.param) == ("too_many_images", "input.0.content.0.image_url")


async def test_the_clients_own_list_of_items_serves_as_well() -> None:
    async with sdk(tell("one")) as (client, queue):
        first = await client.responses.create(model="demo", input="1?", store=False)
        items: Any = [
            {"role": "user", "content": "1?"},
            *first.output,
            {"type": "message", "role": "user", "content": "2?"},
        ]
        await client.responses.create(model="demo", input=items, store=False)
    assert [texts(message) for message in queue.submitted[1].messages] == [
        ("user", "1?"),
        ("assistant", "one"),
        ("user", "2?"),
    ]


async def test_a_response_can_be_read_and_deleted() -> None:
    async with sdk(tell("a cat")) as (client, _):
        answer = await client.responses.create(model="demo", input="hello")
        assert (await client.responses.retrieve(answer.id)).to_dict() == answer.to_dict()
        await client.responses.delete(answer.id)
        for call in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
            with pytest.raises(openai.NotFoundError) as refusal:
                await call(answer.id)
            assert refusal.value.code == "not_found"


async def test_a_response_that_is_not_to_be_stored_is_unknown() -> None:
    async with sdk(tell("a cat")) as (client, _):
        answer = await client.responses.create(model="demo", input="hello", store=False)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(answer.id)
        with pytest.raises(openai.NotFoundError) as refusal:
            await client.responses.create(model="demo", input="go on", previous_response_id=answer.id)
    assert (refusal.value.code, refusal.value.param) == ("previous_response_not_found", "previous_response_id")


async def test_a_tenant_does_not_see_anothers_responses() -> None:
    async with sdk(tell("a cat"), api_keys=["sk-test", "sk-other"]) as (client, _):
        answer = await client.responses.create(model="demo", input="hello")
        other = with_key(client, "sk-other")
        for call in (other.responses.retrieve, other.responses.delete, other.responses.input_items.list):
            with pytest.raises(openai.NotFoundError):
                await call(answer.id)
        with pytest.raises(openai.NotFoundError):
            await other.responses.create(model="demo", input="go on", previous_response_id=answer.id)
        assert (await client.responses.retrieve(answer.id)).output_text == "a cat"


async def test_the_input_of_a_response_is_listed_in_pages() -> None:
    said: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": "1"}, {"type": "input_image", "image_url": PNG}]},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "3"},
    ]
    async with sdk(tell("x")) as (client, _):
        answer = await client.responses.create(model="demo", input=said)
        page = await client.responses.input_items.list(answer.id, limit=2, order="asc")
        assert (len(page.data), page.has_more) == (2, True)
        first: Any = page.data[0]
        assert first.to_dict()["content"][1] == {"type": "input_image", "image_url": PNG, "detail": "auto"}
        listed: list[Any] = [item async for item in client.responses.input_items.list(answer.id, limit=1, order="asc")]
        assert [item.content[0].text for item in listed] == ["1", "2", "3"]
        assert [item.role for item in listed] == ["user", "assistant", "user"]
        assert len({item.id for item in listed}) == 3
        newest = await client.responses.input_items.list(answer.id)
        assert [item.id for item in newest.data] == [item.id for item in reversed(listed)]
        for query in ({"limit": 0}, {"limit": 101}, {"after": "nope"}, {"order": "up"}):
            with pytest.raises(openai.BadRequestError) as refusal:
                await client.responses.input_items.list(answer.id, **query)  # type: ignore[arg-type]
            assert refusal.value.param == next(iter(query))


async def test_the_tokens_of_an_input_are_counted_without_an_answer() -> None:
    async with sdk(tell("x")) as (client, queue):
        first = await client.responses.create(model="demo", input="1?")
        counted = await client.responses.input_tokens.count(model="demo", input="2?", previous_response_id=first.id)
        assert (counted.input_tokens, counted.object) == (7, "response.input_tokens")
        assert (queue.submitted[1].n, len(queue.submitted[1].messages)) == (0, 3)
        with pytest.raises(openai.BadRequestError) as refusal:
            await client.responses.input_tokens.count(model="demo", input="2?", extra_body={"temperature": 1})
        assert refusal.value.param == "temperature"


async def test_only_a_response_of_the_background_could_be_cancelled() -> None:
    async with sdk(tell("x")) as (client, _):
        answer = await client.responses.create(model="demo", input="hello")
        with pytest.raises(openai.BadRequestError, match="background"):
            await client.responses.cancel(answer.id)


async def test_a_conversation_that_cannot_be_kept_is_refused_unless_nobody_wants_it_kept() -> None:
    limits = GatewayLimits(responses=StoreLimits(max_bytes=8000))
    async with sdk(tell("x"), limits=limits) as (client, _):
        first = await client.responses.create(model="demo", input="y" * 2000)
        with pytest.raises(openai.BadRequestError) as refusal:
            await client.responses.create(model="demo", input="y" * 3000, previous_response_id=first.id)
        assert refusal.value.param == "store"
        second = await client.responses.create(
            model="demo", input="y" * 3000, previous_response_id=first.id, store=False
        )
        assert second.status == "completed"
