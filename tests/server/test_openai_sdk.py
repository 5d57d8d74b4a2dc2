"""OpenAI's own client library against a gateway that really listens."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import openai
import pytest

from schemas.events import Delta, Event, Failed, TokenLogprob, TopLogprob
from schemas.jobs import ChatJob, ImagePart
from server.app import GatewayLimits
from tests.fakes.memory_queue import MemoryQueue, Script, tell
from tests.server.serving import listening

MESSAGES: Any = [{"role": "user", "content": "hello"}]


@asynccontextmanager
async def sdk(script: Script, **options: Any) -> AsyncIterator[tuple[openai.AsyncOpenAI, MemoryQueue]]:
    queue = MemoryQueue(script)
    async with listening(queue, **options) as (host, port):
        http = httpx.AsyncClient(trust_env=False)
        async with openai.AsyncOpenAI(
            base_url=f"http://{host}:{port}/v1", api_key="sk-test", max_retries=0, http_client=http
        ) as client:
            yield client, queue


async def with_logprobs(job: ChatJob) -> AsyncGenerator[Event, None]:
    async for event in tell("a cat")(job):
        if isinstance(event, Delta):
            raw = event.text.encode()
            one = TokenLogprob(
                event.text, raw, -0.25, (TopLogprob(event.text, raw, -0.25), TopLogprob("x", b"x", -2.0))
            )
            event = msgspec.structs.replace(event, logprobs=(one,))
        yield event


async def test_a_chat_with_a_picture() -> None:
    async with sdk(tell("a cat sat")) as (client, queue):
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
        answer = await client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": [{"type": "text", "text": "what?"}, picture]}],  # type: ignore[list-item]
            temperature=0,
            max_tokens=5,
            extra_body={"top_k": 3},
        )
    assert answer.choices[0].message.content == "a cat sat"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.total_tokens, answer.usage.prompt_tokens_details.cached_tokens) == (10, 3)  # type: ignore[union-attr]
    assert answer._request_id is not None
    job = queue.submitted[0]
    assert job.messages[0].parts[1] == ImagePart(
        "data:image/png;base64,AAAA", "messages.0.content.1.image_url.url", "low"
    )
    assert (job.sampling.top_k, job.sampling.max_tokens, job.sampling.temperature) == (3, 5, 0)


async def test_a_stream_with_usage() -> None:
    async with sdk(tell("a cat sat")) as (client, _):
        stream = await client.chat.completions.create(
            model="demo", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "a cat sat"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 10)  # type: ignore[union-attr]


async def test_the_librarys_own_accumulation_of_a_stream_agrees() -> None:
    async with sdk(tell("a cat sat")) as (client, _):
        async with client.chat.completions.stream(model="demo", messages=MESSAGES) as stream:
            completion = await stream.get_final_completion()
    assert completion.choices[0].message.content == "a cat sat"


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_parse(stream: bool) -> None:
    async with sdk(with_logprobs) as (client, _):
        request: dict[str, Any] = {"model": "demo", "messages": MESSAGES, "logprobs": True, "top_logprobs": 2}
        if stream:
            chunks = [chunk async for chunk in await client.chat.completions.create(**request, stream=True)]
            found = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
        else:
            found = [(await client.chat.completions.create(**request)).choices[0].logprobs]
    tokens = [token for logprobs in found for token in logprobs.content]
    assert [(token.token, token.logprob, token.bytes) for token in tokens] == [
        ("a ", -0.25, [97, 32]),
        ("cat", -0.25, [99, 97, 116]),
    ]
    assert [top.token for top in tokens[1].top_logprobs] == ["cat", "x"]


async def test_models_are_listed() -> None:
    async with sdk(tell("x")) as (client, _):
        assert [model.id async for model in client.models.list()] == ["demo"]
        assert (await client.models.retrieve("demo")).id == "demo"


async def test_refusals_raise_the_librarys_classes() -> None:
    create = {"model": "demo", "messages": MESSAGES}
    async with sdk(tell("x"), limits=GatewayLimits(request_timeout_s=0.01)) as (client, queue):
        with pytest.raises(openai.BadRequestError) as refusal:
            await client.chat.completions.create(**create, temperature=9)  # type: ignore[call-overload]
        assert (refusal.value.param, refusal.value.code) == ("temperature", "invalid_value")
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="nope", messages=MESSAGES)
        with pytest.raises(openai.NotFoundError):
            await client.embeddings.create(model="demo", input="x")
        queue.fleet.clear()
        with pytest.raises(openai.InternalServerError) as failure:
            await client.chat.completions.create(**create)  # type: ignore[call-overload]
        assert failure.value.status_code == 504
        queue.max_waiting = 0
        with pytest.raises(openai.RateLimitError) as limit:
            await client.chat.completions.create(**create)  # type: ignore[call-overload]
        assert limit.value.response.headers["retry-after"] == "3"


async def test_a_wrong_key_raises_the_librarys_class() -> None:
    async with sdk(tell("x"), api_keys=["sk-other"]) as (client, _):
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
    async with sdk(tell("x"), api_keys=["sk-other", "sk-test"]) as (client, _):
        assert (await client.models.list()).data


async def test_a_failure_in_mid_stream_is_raised_to_the_reader() -> None:
    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        async for event in tell("a cat sat")(job):
            if event.seq == 2:
                yield Failed(job_id=job.job_id, epoch=0, seq=2, code="engine_error", message="The engine failed.")
                return
            yield event

    async with sdk(script) as (client, _):
        stream = await client.chat.completions.create(model="demo", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="The engine failed"):
            async for _chunk in stream:
                pass


async def test_leaving_a_stream_in_the_middle_cancels_the_job() -> None:
    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        async for event in tell("a cat sat")(job):
            if event.seq == 2:
                await asyncio.Event().wait()
            yield event

    async with sdk(script) as (client, queue):
        stream = await client.chat.completions.create(model="demo", messages=MESSAGES, stream=True)
        async for _chunk in stream:
            break
        await stream.close()
        await queue.was_cancelled.wait()
        assert queue.cancelled == [queue.submitted[0].job_id]
