"""Every parameter that OpenAI documents for chats either works or is refused by its name; none is silently ignored."""

from typing import Any

import pytest
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsBase,
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)

from schemas.jobs import Job
from schemas.openai.chat import ChatCompletionRequest
from tests.fakes.memory_queue import MemoryQueue, tell
from tests.server.serving import CHAT, ask, chunks_of, client_of

DOCUMENTED = {
    name
    for parameters in (CompletionCreateParamsBase, CompletionCreateParamsNonStreaming, CompletionCreateParamsStreaming)
    for name in parameters.__annotations__
}
ELSEWHERE = {
    "messages", "model", "stream", "stream_options",
    "function_call", "functions", "parallel_tool_calls", "response_format", "tool_choice", "tools",
}  # fmt: skip
"""What other tests show: the request itself, streams, tools and structured output."""

REACH_THE_JOB: dict[str, tuple[Any, Any]] = {
    "frequency_penalty": (0.5, lambda job: job.sampling.frequency_penalty == 0.5),
    "logit_bias": ({"7": -100}, lambda job: job.sampling.logit_bias == {7: -100.0}),
    "logprobs": (True, lambda job: job.sampling.logprobs),
    "max_completion_tokens": (5, lambda job: job.sampling.max_tokens == 5),
    "max_tokens": (5, lambda job: job.sampling.max_tokens == 5),
    "n": (3, lambda job: job.n == 3),
    "presence_penalty": (-0.5, lambda job: job.sampling.presence_penalty == -0.5),
    "seed": (7, lambda job: job.sampling.seed == 7),
    "stop": (["a", "b"], lambda job: job.sampling.stop == ("a", "b")),
    "temperature": (0.25, lambda job: job.sampling.temperature == 0.25),
    "top_p": (0.5, lambda job: job.sampling.top_p == 0.5),
}
"""Parameter -> a value, and what the worker must be told."""

WITHOUT_EFFECT: dict[str, Any] = {
    "metadata": {"a": "b"},
    "modalities": ["text"],
    "prompt_cache_key": "key",
    "prompt_cache_retention": "24h",
    "safety_identifier": "somebody",
    "service_tier": "flex",
    "user": "somebody",
}
"""What is about OpenAI's own business and changes no answer."""

REFUSED: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "mp3"},
    "modalities": ["text", "audio"],
    "moderation": {"model": "omni-moderation-latest"},
    "prediction": {"type": "content", "content": "hello"},
    "prompt_cache_options": {"mode": "explicit"},
    "reasoning_effort": "high",
    "store": True,
    "verbosity": "high",
    "web_search_options": {},
}
ASKS_FOR_NOTHING: dict[str, Any] = {
    "audio": None,
    "moderation": None,
    "prediction": None,
    "reasoning_effort": None,
    "store": False,
    "verbosity": "medium",
    "web_search_options": {},
}


async def job_of(parameters: dict[str, Any]) -> Job:
    queue = MemoryQueue(tell("x"))
    async with client_of(queue) as client:
        answer = await client.post(CHAT, json=ask(**parameters))
    assert answer.status_code == 200, answer.text
    job: Job = queue.submitted[0]
    return job


def test_every_documented_parameter_has_a_row() -> None:
    rows = REACH_THE_JOB.keys() | WITHOUT_EFFECT.keys() | REFUSED.keys() | {"top_logprobs"}
    assert rows | ELSEWHERE == DOCUMENTED


async def test_what_works_reaches_the_worker() -> None:
    for name, (value, is_there) in REACH_THE_JOB.items():
        assert name in ChatCompletionRequest.model_fields
        assert is_there(await job_of({name: value})), name
    assert (await job_of({"logprobs": True, "top_logprobs": 4})).sampling.top_logprobs == 4


async def test_a_null_is_as_good_as_nothing() -> None:
    plain = await job_of({})
    for name in REACH_THE_JOB.keys() - {"seed"}:
        job = await job_of({name: None, "seed": 1})
        assert (job.n, job.sampling.temperature, job.sampling.stop) == (plain.n, plain.sampling.temperature, ()), name


async def test_what_has_no_effect_is_accepted() -> None:
    plain = await job_of({"seed": 1})
    job = await job_of({"seed": 1, **WITHOUT_EFFECT})
    assert (job.sampling, job.messages, job.priority) == (plain.sampling, plain.messages, plain.priority)  # type: ignore[union-attr]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_not_there_is_refused_by_its_name(stream: bool) -> None:
    queue = MemoryQueue(tell("x"))
    async with client_of(queue) as client:
        for name, value in REFUSED.items():
            if value == ASKS_FOR_NOTHING.get(name, "other"):
                continue
            answer = await client.post(CHAT, json=ask(stream=stream, **{name: value}))
            assert answer.status_code == 400, name
            assert answer.json()["error"]["param"].partition(".")[0] == name
        unknown = await client.post(CHAT, json=ask(stream=stream, temprature=0))
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (400, "unknown_parameter")
        assert unknown.json()["error"]["param"] == "temprature"
    assert not queue.submitted


async def test_a_value_that_asks_for_nothing_is_let_through() -> None:
    await job_of(ASKS_FOR_NOTHING)


async def test_the_options_of_streams_work_or_are_refused() -> None:
    async with client_of(MemoryQueue(tell("x"))) as client:
        wanted = await client.post(CHAT, json=ask(stream=True, stream_options={"include_usage": True}))
        assert chunks_of(wanted.text)[-1]["usage"]["total_tokens"] == 8
        for options in ({"include_usage": "yes"}, {"nope": True}):
            answer = await client.post(CHAT, json=ask(stream=True, stream_options=options))
            assert answer.status_code == 400
            assert answer.json()["error"]["param"].startswith("stream_options.")
