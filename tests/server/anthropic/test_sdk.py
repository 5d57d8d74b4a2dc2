"""Anthropic's own client library against a gateway that really listens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import pytest
from anthropic import types as wire
from pydantic import BaseModel

from schemas.jobs import ImagePart, Message, TextPart, VideoPart
from tests.fakes.memory_queue import MemoryQueue, Script, tell
from tests.server.plays import fail_at, hang_at, tell_with
from tests.server.serving import listening

USER: Any = {"role": "user", "content": "hello"}
EVENTS: dict[str, type[BaseModel]] = {
    "message_start": wire.RawMessageStartEvent,
    "content_block_start": wire.RawContentBlockStartEvent,
    "content_block_delta": wire.RawContentBlockDeltaEvent,
    "content_block_stop": wire.RawContentBlockStopEvent,
    "message_delta": wire.RawMessageDeltaEvent,
    "message_stop": wire.RawMessageStopEvent,
}
WEATHER: Any = {
    "name": "weather",
    "description": "Of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>'


@asynccontextmanager
async def sdk(script: Script, **options: Any) -> AsyncIterator[tuple[anthropic.AsyncAnthropic, MemoryQueue]]:
    queue = MemoryQueue(script)
    async with listening(queue, **options) as (host, port):
        http = anthropic.DefaultAsyncHttpxClient(trust_env=False)
        async with anthropic.AsyncAnthropic(
            base_url=f"http://{host}:{port}", api_key="sk-test", auth_token=None, max_retries=0, http_client=http
        ) as client:
            yield client, queue


def ask(**request: Any) -> Any:
    return {"model": "demo", "max_tokens": 16, "messages": [USER], **request}


async def events_of(client: anthropic.AsyncAnthropic, **request: Any) -> list[Any]:
    """The events of a stream, each held to the library's own model of it."""
    events = [event async for event in await client.messages.create(**ask(**request), stream=True)]
    for event in events:
        EVENTS[event.type].model_validate(event.to_dict())
    return events


def texts(message: Message) -> tuple[str, str]:
    return message.role, "".join(part.text for part in message.parts if isinstance(part, TextPart))


async def test_a_text_is_answered() -> None:
    async with sdk(tell("a cat sat")) as (client, queue):
        answer = await client.messages.create(
            **ask(
                system="Be kind.",
                stop_sequences=["END"],
                metadata={"user_id": "u"},
                extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 3, "seed": 4},
            )
        )
    wire.Message.model_validate(answer.to_dict())
    assert [block.to_dict() for block in answer.content] == [{"type": "text", "text": "a cat sat", "citations": None}]
    assert (answer.stop_reason, answer.stop_sequence, answer.role, answer.model) == (
        "end_turn",
        None,
        "assistant",
        "demo",
    )
    usage = answer.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (4, 3, 3)
    assert answer._request_id is not None and answer._request_id.startswith("req_")
    (job,) = queue.submitted
    assert answer.id == f"msg_{job.job_id}"
    assert [texts(message) for message in job.messages] == [("system", "Be kind."), ("user", "hello")]
    sampling = job.sampling
    assert (sampling.max_tokens, sampling.stop, sampling.temperature, sampling.top_k, sampling.seed) == (
        16,
        ("END",),
        0.5,
        3,
        4,
    )


async def test_the_sync_client_is_answered_too() -> None:
    async with listening(MemoryQueue(tell("a cat sat"))) as (host, port):

        def run() -> tuple[str, str]:
            with anthropic.Anthropic(base_url=f"http://{host}:{port}", api_key="x", max_retries=0) as client:
                whole: Any = client.messages.create(**ask()).content[0]
                with client.messages.stream(**ask()) as stream:
                    return whole.text, stream.get_final_text()

        assert await asyncio.to_thread(run) == ("a cat sat", "a cat sat")


async def test_pictures_and_clips_stand_where_they_stood() -> None:
    content = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        {"type": "text", "text": "and", "cache_control": {"type": "ephemeral"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {"type": "video", "source": {"type": "base64", "media_type": "video/mp4", "data": "AAAA"}},
        {"type": "video", "source": {"type": "url", "url": "https://example.com/a"}},
    ]
    async with sdk(tell("x")) as (client, queue):
        await client.messages.create(**ask(messages=[{"role": "user", "content": content}]))
    (message,) = queue.submitted[0].messages
    assert message.parts == (
        ImagePart("data:image/png;base64,AAAA", "messages.0.content.0.image_url.url"),
        TextPart("and"),
        ImagePart("https://example.com/a.png", "messages.0.content.2.image_url.url"),
        VideoPart("data:video/mp4;base64,AAAA", "messages.0.content.3.video_url.url"),
        VideoPart("https://example.com/a", "messages.0.content.4.video_url.url"),
    )


async def test_a_conversation_of_several_turns() -> None:
    said = [USER, {"role": "assistant", "content": "hi"}, {"role": "user", "content": [{"type": "text", "text": "?"}]}]
    async with sdk(tell("x")) as (client, queue):
        await client.messages.create(**ask(messages=said, system=[{"type": "text", "text": "Be kind."}]))
    job = queue.submitted[0]
    assert [texts(message) for message in job.messages] == [
        ("system", "Be kind."),
        ("user", "hello"),
        ("assistant", "hi"),
        ("user", "?"),
    ]
    assert job.add_generation_prompt


async def test_a_last_message_of_the_assistants_is_continued() -> None:
    async with sdk(tell("x")) as (client, queue):
        await client.messages.create(**ask(messages=[USER, {"role": "assistant", "content": "I say"}]))
    assert not queue.submitted[0].add_generation_prompt


async def test_a_streams_events_come_in_anthropics_order() -> None:
    async with sdk(tell("a cat sat")) as (client, _):
        events = await events_of(client)
    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert "".join(event.delta.text for event in events[2:5]) == "a cat sat"
    assert (events[0].message.usage.input_tokens, events[0].message.content) == (7, [])
    last = events[-2]
    assert (last.delta.stop_reason, last.usage.output_tokens, last.usage.cache_read_input_tokens) == ("end_turn", 3, 3)


async def test_the_librarys_own_accumulation_of_a_stream_agrees() -> None:
    async with sdk(tell("a cat sat")) as (client, _):
        whole = await client.messages.create(**ask())
        async with client.messages.stream(**ask()) as stream:
            told = "".join([text async for text in stream.text_stream])
            final = await stream.get_final_message()
    assert told == "a cat sat"
    ignored = {"id", "stop_details"}
    assert final.to_dict().keys() - ignored == whole.to_dict().keys() - ignored
    assert (final.usage, final.stop_reason) == (whole.usage, whole.stop_reason)


async def test_an_answer_without_text_has_no_content() -> None:
    async with sdk(tell("")) as (client, _):
        events = await events_of(client)
        assert [event.type for event in events] == ["message_start", "message_delta", "message_stop"]
        assert (await client.messages.create(**ask())).content == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("last", "max_tokens", "reason", "sequence"),
    [
        ({"stop_string": "END"}, 16, "stop_sequence", "END"),
        ({"finish_reason": "length"}, 3, "max_tokens", None),
        ({"finish_reason": "length"}, 16, "model_context_window_exceeded", None),
    ],
)
async def test_why_an_answer_ends(
    stream: bool, last: dict[str, Any], max_tokens: int, reason: str, sequence: str | None
) -> None:
    async with sdk(tell_with("a cat sat", **last)) as (client, _):
        if stream:
            end = (await events_of(client, max_tokens=max_tokens))[-2].delta
        else:
            end = await client.messages.create(**ask(max_tokens=max_tokens))
    assert (end.stop_reason, end.stop_sequence) == (reason, sequence)


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_are_used_and_their_results_go_back(stream: bool) -> None:
    async with sdk(tell_with(f"Let me see. {CALL}", tool_form="hermes")) as (client, queue):
        if stream:
            async with client.messages.stream(**ask(tools=[WEATHER])) as events:
                answer: Any = await events.get_final_message()
        else:
            answer = await client.messages.create(**ask(tools=[WEATHER], tool_choice={"type": "any"}))
        said, use = answer.content
        assert (said.text, use.type, use.name, use.input) == ("Let me see.", "tool_use", "weather", {"city": "Bonn"})
        assert answer.stop_reason == "tool_use"
        queue.script = tell("It rains.")
        picture = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
        result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "rain"}, picture]}
        turns = [
            USER,
            {"role": "assistant", "content": [block.to_dict() for block in answer.content]},
            {"role": "user", "content": [result, {"type": "text", "text": "Well?"}]},
        ]
        await client.messages.create(**ask(messages=turns, tools=[WEATHER]))
    first, second = queue.submitted
    assert (first.tools[0].name, first.tool_choice.is_required) == ("weather", not stream)
    _, called, answered, asked = second.messages
    assert (called.tool_calls[0].id, called.tool_calls[0].arguments) == (use.id, '{"city": "Bonn"}')
    assert (answered.role, answered.tool_call_id, texts(answered)[1]) == ("tool", use.id, "rain")
    assert isinstance(answered.parts[1], ImagePart)
    assert texts(asked) == ("user", "Well?")


async def test_a_schema_becomes_the_grammar() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    async with sdk(tell("{}")) as (client, queue):
        await client.messages.create(**ask(output_config={"format": {"type": "json_schema", "schema": schema}}))
    grammar = queue.submitted[0].sampling.grammar
    assert grammar is not None
    assert (grammar.kind, '"integer"' in grammar.source) == ("json_schema", True)


async def test_tokens_are_counted_without_an_answer() -> None:
    async with sdk(tell("x")) as (client, queue):
        counted = await client.messages.count_tokens(model="demo", messages=[USER], system="Be kind.", tools=[WEATHER])
    assert counted.input_tokens == 7
    (job,) = queue.submitted
    assert (job.n, len(job.messages), job.tools[0].name) == (0, 2, "weather")


async def test_refusals_raise_the_librarys_classes() -> None:
    async with sdk(tell("x"), api_keys=["sk-test"]) as (client, queue):
        with pytest.raises(anthropic.BadRequestError) as refusal:
            await client.messages.create(**ask(messages=[]))
        body: Any = refusal.value.body
        assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
        assert "'messages'" in body["error"]["message"]
        with pytest.raises(anthropic.NotFoundError) as missing:
            await client.messages.create(**ask(model="nope"))
        assert missing.value.type == "not_found_error"
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.batches.list()
        with pytest.raises(anthropic.AuthenticationError) as unknown:
            await client.with_options(api_key="sk-wrong").messages.create(**ask())
        assert unknown.value.type == "authentication_error"
        queue.max_waiting = 0
        queue.fleet.clear()
        with pytest.raises(anthropic.APIStatusError) as full:
            await client.messages.create(**ask())
        assert (full.value.status_code, full.value.type) == (529, "overloaded_error")
        assert "retry-after" in full.value.response.headers


async def test_a_failure_before_the_start_names_the_clients_own_field() -> None:
    script = fail_at(0, "image_parse_error", "messages.1.content.0.image_url.url")
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    said = [{"role": "user", "content": [{"type": "image", "source": source}]}]
    async with sdk(script) as (client, _):
        for stream in (False, True):
            with pytest.raises(anthropic.BadRequestError, match=r"messages\.0\.content\.0\.source\.data"):
                await client.messages.create(**ask(messages=said, system="Look.", stream=stream))


async def test_a_failure_in_mid_stream_is_raised_to_the_reader() -> None:
    async with sdk(fail_at(2)) as (client, _):
        with pytest.raises(anthropic.APIStatusError, match="The engine failed") as failure:
            async for _event in await client.messages.create(**ask(), stream=True):
                pass
    assert failure.value.type == "api_error"


async def test_leaving_a_stream_in_the_middle_cancels_the_job() -> None:
    async with sdk(hang_at(2)) as (client, queue):
        stream: Any = await client.messages.create(**ask(), stream=True)
        async for _event in stream:
            break
        await stream.close()
        await queue.was_cancelled.wait()
        assert queue.cancelled == [queue.submitted[0].job_id]
