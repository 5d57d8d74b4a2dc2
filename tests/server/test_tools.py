"""Tools over HTTP: OpenAI's own client against a gateway whose worker writes calls as models do."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import openai
import pytest
from pydantic import BaseModel

from schemas.events import Accepted, Delta, Event, TokenLogprob
from schemas.jobs import ChatJob, ImagePart, TextPart, ToolCall
from schemas.tool_forms import HERMES
from tests.fakes.memory_queue import MemoryQueue, Script, Teller, WorkerDied, tell
from tests.server.serving import CHAT, ask, chunks_of, client_of, listening

LOOK: Any = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}},
}
MESSAGES: Any = [{"role": "user", "content": "What is there?"}]
CALLS = (
    'I will look. <tool_call>\n{"name": "look", "arguments": {"at": "a cat"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "look", "arguments": {"at": "two dogs"}}\n</tool_call>'
)


class Look(BaseModel):
    """See what is there."""

    at: str


def calling(text: str = CALLS, form: str | None = HERMES) -> Script:
    """A worker that offers the tools in a form and answers with this text, a token a word."""

    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        async for event in tell(text)(job):
            is_told = isinstance(event, Accepted) and job.tools
            yield msgspec.structs.replace(event, tool_form=form) if is_told else event

    return script


@asynccontextmanager
async def sdk(script: Script) -> AsyncIterator[tuple[openai.AsyncOpenAI, MemoryQueue]]:
    queue = MemoryQueue(script)
    async with listening(queue) as (host, port):
        http = httpx.AsyncClient(trust_env=False)
        async with openai.AsyncOpenAI(
            base_url=f"http://{host}:{port}/v1", api_key="sk-test", max_retries=0, http_client=http
        ) as client:
            yield client, queue


async def chunks(script: Script, **parameters: Any) -> list[dict[str, Any]]:
    async with client_of(MemoryQueue(script)) as client:
        answer = await client.post(CHAT, json=ask(stream=True, tools=[LOOK], **parameters))
    assert answer.status_code == 200, answer.text
    return chunks_of(answer.text)


async def test_a_whole_answer_with_words_and_calls() -> None:
    async with sdk(calling()) as (client, _):
        answer = await client.chat.completions.create(model="demo", messages=MESSAGES, tools=[LOOK])
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I will look.")
    calls: Any = choice.message.tool_calls
    assert [(call.type, call.function.name, call.function.arguments) for call in calls] == [
        ("function", "look", '{"at": "a cat"}'),
        ("function", "look", '{"at": "two dogs"}'),
    ]
    assert len({call.id for call in calls}) == 2
    assert all(call.id.startswith("call_") for call in calls)


async def test_an_answer_of_calls_alone_has_no_content() -> None:
    async with client_of(MemoryQueue(calling(CALLS.partition(". ")[2]))) as client:
        body = (await client.post(CHAT, json=ask(tools=[LOOK]))).json()
    message = body["choices"][0]["message"]
    assert message["content"] is None
    assert len(message["tool_calls"]) == 2


async def test_words_alone_are_an_ordinary_answer() -> None:
    async with client_of(MemoryQueue(calling("a cat sat"))) as client:
        body = (await client.post(CHAT, json=ask(tools=[LOOK]))).json()
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "a cat sat", "refusal": None}
    assert body["choices"][0]["finish_reason"] == "stop"


async def test_a_stream_tells_each_call_by_its_index_the_name_first() -> None:
    deltas = [chunk["choices"][0]["delta"] for chunk in await chunks(calling())]
    assert deltas[0] == {"role": "assistant", "content": None}
    assert "".join(delta.get("content") or "" for delta in deltas) == "I will look."
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert all(len(delta.get("tool_calls", (0,))) == 1 for delta in deltas)
    firsts = [call for call in calls if "id" in call]
    assert [{**call, "id": ""} for call in firsts] == [
        {"index": index, "id": "", "type": "function", "function": {"arguments": "", "name": "look"}}
        for index in range(2)
    ]
    others = [call for call in calls if "id" not in call]
    assert all(call.keys() == {"index", "function"} and call["function"].keys() == {"arguments"} for call in others)
    arguments = ["".join(call["function"]["arguments"] for call in others if call["index"] == at) for at in range(2)]
    assert arguments == ['{"at": "a cat"}', '{"at": "two dogs"}']
    assert len(others) > 2


async def test_a_stream_ends_with_tool_calls_and_its_usage() -> None:
    found = await chunks(calling(), stream_options={"include_usage": True})
    assert found[-2]["choices"][0] | {"index": 0} == found[-2]["choices"][0]
    assert (found[-2]["choices"][0]["finish_reason"], found[-2]["choices"][0]["delta"]) == ("tool_calls", {})
    assert found[-1]["usage"]["completion_tokens"] == len(CALLS.split(" "))


async def test_every_choice_has_its_own_calls() -> None:
    found = await chunks(calling(), n=2)
    async with sdk(calling()) as (client, _):
        answer = await client.chat.completions.create(model="demo", messages=MESSAGES, tools=[LOOK], n=2)
    ids = [call.id for choice in answer.choices for call in choice.message.tool_calls or ()]
    assert len(set(ids)) == 4
    for index in range(2):
        own = [choice for chunk in found for choice in chunk["choices"] if choice["index"] == index]
        starts = [call["index"] for choice in own for call in choice["delta"].get("tool_calls", ()) if "id" in call]
        assert starts == [0, 1]
        assert own[-1]["finish_reason"] == "tool_calls"


async def test_the_librarys_own_accumulation_parses_the_arguments() -> None:
    tool = openai.pydantic_function_tool(Look, name="look")
    async with sdk(calling()) as (client, queue):
        async with client.chat.completions.stream(model="demo", messages=MESSAGES, tools=[tool]) as stream:
            events = [event async for event in stream]
            completion = await stream.get_final_completion()
        parsed = await client.chat.completions.parse(model="demo", messages=MESSAGES, tools=[tool])
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert [(event.name, event.index, event.parsed_arguments) for event in done] == [
        ("look", 0, Look(at="a cat")),
        ("look", 1, Look(at="two dogs")),
    ]
    for answer in (completion, parsed):
        calls: Any = answer.choices[0].message.tool_calls
        assert [call.function.parsed_arguments for call in calls] == [Look(at="a cat"), Look(at="two dogs")]
    assert queue.submitted[0].tools[0].is_strict
    assert json.loads(queue.submitted[0].tools[0].parameters)["additionalProperties"] is False


async def test_a_conversation_goes_round_with_a_picture_from_the_tool() -> None:
    async with sdk(calling(CALLS)) as (client, queue):
        first = await client.chat.completions.create(model="demo", messages=MESSAGES, tools=[LOOK])
        message: Any = first.choices[0].message
        queue.script = calling("A cat and two dogs.")
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        results: Any = [
            {"role": "tool", "tool_call_id": message.tool_calls[1].id, "content": "two dogs"},
            {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": [picture]},
        ]
        second = await client.chat.completions.create(
            model="demo", messages=[*MESSAGES, message, *results], tools=[LOOK]
        )
    assert second.choices[0].message.content == "A cat and two dogs."
    said, *results = queue.submitted[1].messages[1:]
    ids = [call.id for call in message.tool_calls]
    assert said.parts == (TextPart("I will look."),)
    assert said.tool_calls == (
        ToolCall(ids[0], "look", '{"at": "a cat"}'),
        ToolCall(ids[1], "look", '{"at": "two dogs"}'),
    )
    assert [result.tool_call_id for result in results] == [ids[1], ids[0]]
    assert isinstance(results[1].parts[0], ImagePart)


async def test_a_call_that_is_cut_off_is_told_as_far_as_it_came() -> None:
    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        async for event in calling('<tool_call>{"name": "look", "arguments": {"at": "a')(job):
            is_last = isinstance(event, Delta) and event.finish_reason
            yield msgspec.structs.replace(event, finish_reason="length") if is_last else event

    async with client_of(MemoryQueue(script)) as client:
        choice = (await client.post(CHAT, json=ask(tools=[LOOK]))).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"at": "a'


async def test_calls_may_be_held_to_one() -> None:
    async with client_of(MemoryQueue(calling())) as client:
        choice = (await client.post(CHAT, json=ask(tools=[LOOK], parallel_tool_calls=False))).json()["choices"][0]
    assert len(choice["message"]["tool_calls"]) == 1


async def test_without_tools_what_looks_like_a_call_is_text() -> None:
    choices: list[dict[str, Any]] = [{}, {"tools": [LOOK], "tool_choice": "none"}]
    for parameters in choices:
        async with client_of(MemoryQueue(calling())) as client:
            choice = (await client.post(CHAT, json=ask(**parameters))).json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (CALLS, "stop")


async def test_logprobs_and_token_ids_of_calls_are_told_once() -> None:
    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        async for event in calling()(job):
            if isinstance(event, Delta):
                event = msgspec.structs.replace(event, logprobs=(TokenLogprob(event.text, event.text.encode(), -1.0),))
            yield event

    found = await chunks(script, logprobs=True, return_token_ids=True)
    choices = [choice for chunk in found for choice in chunk["choices"]]
    tokens = [token["token"] for choice in choices if choice["logprobs"] for token in choice["logprobs"]["content"]]
    assert "".join(tokens) == CALLS
    assert [one for choice in choices for one in choice.get("token_ids", ())] == list(range(len(CALLS.split(" "))))


@pytest.mark.parametrize("num_words", [5, 6, 9, 13])
async def test_a_worker_lost_in_the_middle_of_a_call_leaves_no_seam(num_words: int) -> None:
    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        yield msgspec.structs.replace(teller.accepted(), tool_form=HERMES)
        for count, delta in enumerate(teller.words(CALLS)):
            if job.epoch == 0 and count == num_words:
                raise WorkerDied
            yield delta
        yield teller.finished()

    interrupted, whole = await chunks(script), await chunks(calling())

    def told(found: list[dict[str, Any]]) -> list[Any]:
        deltas = [choice["delta"] for chunk in found for choice in chunk["choices"]]
        for delta in deltas:
            for call in delta.get("tool_calls", ()):
                call.pop("id", None)
        return deltas

    assert told(interrupted) == told(whole)
