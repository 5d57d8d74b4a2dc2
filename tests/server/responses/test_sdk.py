"""The Responses API by OpenAI's own client library, against a gateway that really listens."""

import asyncio
from typing import Any

import openai
import pytest
from openai.types import responses as wire
from openai.types.responses.response_function_call_arguments_delta_event import (
    ResponseFunctionCallArgumentsDeltaEvent,
)
from openai.types.responses.response_function_call_arguments_done_event import ResponseFunctionCallArgumentsDoneEvent
from pydantic import BaseModel

from schemas.jobs import ImagePart, Message, TextPart, VideoPart
from server.app import GatewayLimits
from tests.fakes.memory_queue import MemoryQueue, tell
from tests.server.plays import fail_at, hang_at, tell_with, with_logprobs
from tests.server.serving import listening
from tests.server.test_openai_sdk import sdk

PNG = "data:image/png;base64,AAAA"
EVENTS: dict[str, type[BaseModel]] = {
    "response.created": wire.ResponseCreatedEvent,
    "response.in_progress": wire.ResponseInProgressEvent,
    "response.output_item.added": wire.ResponseOutputItemAddedEvent,
    "response.content_part.added": wire.ResponseContentPartAddedEvent,
    "response.output_text.delta": wire.ResponseTextDeltaEvent,
    "response.output_text.done": wire.ResponseTextDoneEvent,
    "response.content_part.done": wire.ResponseContentPartDoneEvent,
    "response.function_call_arguments.delta": ResponseFunctionCallArgumentsDeltaEvent,
    "response.function_call_arguments.done": ResponseFunctionCallArgumentsDoneEvent,
    "response.output_item.done": wire.ResponseOutputItemDoneEvent,
    "response.completed": wire.ResponseCompletedEvent,
    "response.incomplete": wire.ResponseIncompleteEvent,
    "response.failed": wire.ResponseFailedEvent,
}
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>'


def texts(message: Message) -> tuple[str, str]:
    return message.role, "".join(part.text for part in message.parts if isinstance(part, TextPart))


async def events_of(client: openai.AsyncOpenAI, **request: Any) -> list[Any]:
    """The events of a stream, each held to the library's own model of it, numbered without a gap."""
    stream = await client.responses.create(model="demo", stream=True, **request)
    events = [event async for event in stream]
    for event in events:
        EVENTS[event.type].model_validate(event.to_dict())
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return events


async def test_a_text_is_answered() -> None:
    async with sdk(tell("a cat sat")) as (client, queue):
        answer = await client.responses.create(
            model="demo",
            input="hello",
            instructions="Be kind.",
            max_output_tokens=5,
            temperature=0,
            metadata={"a": "b"},
        )
    wire.Response.model_validate(answer.to_dict())
    assert answer.output_text == "a cat sat"
    assert (answer.status, answer.instructions, answer.metadata) == ("completed", "Be kind.", {"a": "b"})
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (7, 3, 10)
    assert answer.usage.input_tokens_details.cached_tokens == 3
    (job,) = queue.submitted
    assert answer.id == f"resp_{job.job_id}"
    assert [texts(message) for message in job.messages] == [("system", "Be kind."), ("user", "hello")]
    assert (job.sampling.max_tokens, job.sampling.temperature, job.n) == (5, 0, 1)


async def test_the_sync_client_is_answered_too() -> None:
    async with listening(MemoryQueue(tell("a cat sat"))) as (host, port):

        def ask() -> tuple[str, str]:
            with openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key="x", max_retries=0) as client:
                whole = client.responses.create(model="demo", input="hello")
                with client.responses.stream(model="demo", input="hello") as stream:
                    return whole.output_text, stream.get_final_response().output_text

        assert await asyncio.to_thread(ask) == ("a cat sat", "a cat sat")


async def test_pictures_and_clips_stand_where_they_stood() -> None:
    content = [
        {"type": "input_image", "image_url": PNG, "detail": "low"},
        {"type": "input_text", "text": "and"},
        {"type": "input_file", "file_url": "https://example.com/clip.MP4?x=1"},
        {"type": "input_file", "file_data": "AAAA", "filename": "a.webm"},
        {"type": "input_file", "file_data": "data:video/mp4;base64,AAAA"},
        {"type": "input_file", "file_url": "https://example.com/a.mp4", "filename": "a.jpg", "detail": "high"},
        {"type": "input_video", "video_url": "https://example.com/"},
    ]
    async with sdk(tell("x"), limits=GatewayLimits(max_videos=4)) as (client, queue):
        await client.responses.create(model="demo", input=[{"role": "user", "content": content}])  # type: ignore[list-item,misc]
    (message,) = queue.submitted[0].messages
    assert message.parts == (
        ImagePart(PNG, "messages.0.content.0.image_url.url", "low"),
        TextPart("and"),
        VideoPart("https://example.com/clip.MP4?x=1", "messages.0.content.2.video_url.url"),
        VideoPart("data:video/webm;base64,AAAA", "messages.0.content.3.video_url.url"),
        VideoPart("data:video/mp4;base64,AAAA", "messages.0.content.4.video_url.url"),
        ImagePart("https://example.com/a.mp4", "messages.0.content.5.image_url.url", "high"),
        VideoPart("https://example.com/", "messages.0.content.6.video_url.url"),
    )


async def test_a_streams_events_come_in_openais_order() -> None:
    async with sdk(tell("a cat sat")) as (client, _):
        events = await events_of(client, input="hello")
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "a cat sat"
    assert events[7].text == events[-1].response.output_text == "a cat sat"
    assert (events[0].response.status, events[-1].response.status) == ("in_progress", "completed")
    assert {event.item_id for event in events if hasattr(event, "item_id")} == {events[2].item.id}


async def test_an_answer_without_text_is_an_empty_message() -> None:
    async with sdk(tell("")) as (client, _):
        events = await events_of(client, input="hello")
        whole = await client.responses.create(model="demo", input="hello")
    assert "response.output_text.delta" not in {event.type for event in events}
    assert events[-1].response.output[0].content[0].text == whole.output_text == ""


async def test_the_librarys_own_accumulation_of_a_stream_agrees() -> None:
    async with sdk(tell("a cat sat")) as (client, _):
        async with client.responses.stream(model="demo", input="hello") as stream:
            async for event in stream:
                if event.type == "response.output_text.delta":
                    last = event.snapshot
            final = await stream.get_final_response()
    assert last == final.output_text == "a cat sat"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_cut_is_incomplete(stream: bool) -> None:
    async with sdk(tell_with("a cat", finish_reason="length")) as (client, _):
        if stream:
            answer = (await events_of(client, input="hello"))[-1].response
        else:
            answer = await client.responses.create(model="demo", input="hello")
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (answer.output[0].status, answer.output_text) == ("incomplete", "a cat")


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_come_where_they_are_included(stream: bool) -> None:
    wanted: dict[str, Any] = {"input": "x", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    async with sdk(with_logprobs) as (client, queue):
        if stream:
            events = await events_of(client, **wanted)
            told = [token.token for event in events if event.type.endswith("text.delta") for token in event.logprobs]
            assert told == ["a ", "cat"]
            answer = events[-1].response
        else:
            answer = await client.responses.create(model="demo", **wanted)
    tokens = answer.output[0].content[0].logprobs
    assert [(token.token, token.logprob, token.bytes) for token in tokens] == [
        ("a ", -0.25, [97, 32]),
        ("cat", -0.25, [99, 97, 116]),
    ]
    assert [top.token for top in tokens[1].top_logprobs] == ["cat", "x"]
    assert (queue.submitted[0].sampling.logprobs, queue.submitted[0].sampling.top_logprobs) == (True, 2)


async def test_an_answer_is_parsed_into_a_class_of_the_clients() -> None:
    class Count(BaseModel):
        shapes: int

    async with sdk(tell('{"shapes": 3}')) as (client, queue):
        answer = await client.responses.parse(model="demo", input="How many?", text_format=Count)
        assert answer.output_parsed == Count(shapes=3)
        async with client.responses.stream(model="demo", input="How many?", text_format=Count) as stream:
            assert (await stream.get_final_response()).output_parsed == Count(shapes=3)
    grammar = queue.submitted[0].sampling.grammar
    assert grammar is not None
    assert (grammar.kind, '"shapes"' in grammar.source) == ("json_schema", True)
    assert answer.text is not None and answer.text.format is not None
    assert answer.text.format.type == "json_schema"


async def test_calls_of_functions_are_items_and_their_outputs_go_back() -> None:
    async with sdk(tell_with(f"Let me see. {CALL}", tool_form="hermes")) as (client, queue):
        answer = await client.responses.create(model="demo", input="Weather?", tools=[WEATHER])
        wire.Response.model_validate(answer.to_dict())
        said, call = answer.output
        assert said.type == "message" and call.type == "function_call"
        assert (answer.output_text, call.name, call.arguments) == ("Let me see.", "weather", '{"city": "Bonn"}')
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        queue.script = tell("It rains.")
        await client.responses.create(model="demo", previous_response_id=answer.id, input=[result], tools=[WEATHER])
        spelled_out: Any = [
            {"role": "user", "content": "Weather?"},
            *[item.to_dict() for item in answer.output],
            result,
        ]
        await client.responses.create(model="demo", input=spelled_out, tools=[WEATHER])
    first, *later = queue.submitted
    assert (first.tools[0].name, first.tools[0].is_strict) == ("weather", True)
    for job in later:
        asked, called, answered = job.messages
        assert texts(asked) == ("user", "Weather?")
        assert (texts(called), called.tool_calls[0].arguments) == (("assistant", "Let me see."), '{"city": "Bonn"}')
        assert (answered.role, answered.tool_call_id) == ("tool", called.tool_calls[0].id)
        assert texts(answered)[1] == "rain"


async def test_a_call_streams_its_arguments() -> None:
    async with sdk(tell_with(f"Look. {CALL}\n{CALL}", tool_form="hermes")) as (client, _):
        events = await events_of(client, input="Weather?", tools=[WEATHER])
    calls = [event for event in events if event.type == "response.output_item.added" and event.output_index > 0]
    assert [call.item.name for call in calls] == ["weather", "weather"]
    assert calls[0].item.call_id != calls[1].item.call_id
    for index in (1, 2):
        mine = [event for event in events if getattr(event, "output_index", None) == index]
        assert [event.type for event in mine if not event.type.endswith("delta")] == [
            "response.output_item.added",
            "response.function_call_arguments.done",
            "response.output_item.done",
        ]
        assert "".join(event.delta for event in mine if event.type.endswith("delta")) == '{"city": "Bonn"}'
    assert [item.type for item in events[-1].response.output] == ["message", "function_call", "function_call"]


async def test_a_failure_in_mid_stream_is_an_event() -> None:
    async with sdk(fail_at(3)) as (client, _):
        events = await events_of(client, input="hello")
        failed = events[-1]
        assert (failed.type, failed.response.status) == ("response.failed", "failed")
        assert failed.response.error.message == "The engine failed."
        assert failed.response.output_text == "a cat "
        assert (await client.responses.retrieve(failed.response.id)).status == "failed"
        with pytest.raises(openai.BadRequestError) as refusal:
            await client.responses.create(model="demo", input="go on", previous_response_id=failed.response.id)
        assert refusal.value.param == "previous_response_id"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_start_is_an_ordinary_error_in_the_clients_own_names(stream: bool) -> None:
    script = fail_at(0, "image_parse_error", "messages.1.content.1.image_url.url")
    content = [{"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": PNG, "detail": "auto"}]
    async with sdk(script) as (client, _):
        with pytest.raises(openai.BadRequestError) as refusal:
            await client.responses.create(
                model="demo",
                instructions="Look.",
                input=[{"role": "user", "content": content}],  # type: ignore[list-item,misc]
                stream=stream,
            )
    assert (refusal.value.code, refusal.value.param) == ("image_parse_error", "input.0.content.1.image_url")
    assert "'input.0.content.1.image_url'" in str(refusal.value)


async def test_leaving_a_stream_in_the_middle_cancels_the_job() -> None:
    async with sdk(hang_at(2)) as (client, queue):
        stream = await client.responses.create(model="demo", input="hello", stream=True)
        async for event in stream:
            assert event.type == "response.created"
            response_id = event.response.id
            break
        await stream.close()
        await queue.was_cancelled.wait()
        assert queue.cancelled == [queue.submitted[0].job_id]
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response_id)


async def test_leaving_while_the_whole_answer_is_awaited_cancels_the_job() -> None:
    async with sdk(hang_at(2)) as (client, queue):
        asking = asyncio.create_task(client.responses.create(model="demo", input="hello"))
        while not queue.submitted:
            await asyncio.sleep(0)
        asking.cancel()
        await queue.was_cancelled.wait()
        assert queue.cancelled == [queue.submitted[0].job_id]
