"""POST /v1/completions, /v1/tokenize and /v1/detokenize against a worker that plays a script."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from schemas.events import Event, Failed, RankedToken, TokenLogprob, TopLogprob
from schemas.jobs import ChatJob, CompletionJob, ImagePart
from tests.fakes.memory_queue import MemoryQueue, Script, Teller, WorkerDied, tell
from tests.server.serving import chunks_of, client_of

PATH = "/v1/completions"
TEXT = " a cat on a mat"
WORDS = TEXT.split(" ")
ANSWER = tell(TEXT)


def body(prompt: object = "Say", **parameters: Any) -> dict[str, Any]:
    return {"model": "demo", "prompt": prompt, **parameters}


async def answer_of(script: Script = ANSWER, **request: Any) -> tuple[dict[str, Any], list[Any]]:
    """A whole answer's JSON, and the jobs that it took."""
    queue = MemoryQueue(script)
    async with client_of(queue) as client:
        reply = await client.post(PATH, json=body(**request))
    assert reply.status_code == 200, reply.text
    return reply.json(), queue.submitted


async def stream_of(script: Script = ANSWER, **request: Any) -> tuple[list[dict[str, Any]], str]:
    async with client_of(MemoryQueue(script)) as client:
        reply = await client.post(PATH, json=body(**request, stream=True))
    assert reply.status_code == 200, reply.text
    return chunks_of(reply.text), reply.text


async def refusal_of(path: str = PATH, **request: Any) -> tuple[int, str, str]:
    queue = MemoryQueue(tell(TEXT))
    async with client_of(queue) as client:
        reply = await client.post(path, json={"model": "demo", **request})
    assert not queue.submitted
    error = reply.json()["error"]
    return reply.status_code, error["code"], error["param"]


async def test_a_text_prompt_is_one_job_with_sixteen_tokens_unless_said_otherwise() -> None:
    answer, (job,) = await answer_of()
    assert (answer["object"], answer["id"]) == ("text_completion", f"cmpl-{job.job_id}")
    assert answer["choices"] == [{"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}]
    assert answer["usage"]["prompt_tokens"] == 7
    assert answer["usage"]["completion_tokens"] == len(WORDS)
    assert isinstance(job, CompletionJob)
    assert (job.prompt, job.sampling.max_tokens, job.add_special_tokens) == ("Say", 16, True)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("one", ["one"]),
        (["one", "two"], ["one", "two"]),
        ([1, 2, 3], [(1, 2, 3)]),
        ([[1, 2], [3]], [(1, 2), (3,)]),
    ],
)
async def test_each_prompt_is_a_job_of_its_own(prompt: object, expected: list[object]) -> None:
    answer, jobs = await answer_of(prompt=prompt)
    assert [job.prompt for job in jobs] == expected
    assert answer["usage"]["prompt_tokens"] == 7 * len(expected)


async def test_choices_are_numbered_over_prompts() -> None:
    async def script(job: CompletionJob) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        yield teller.accepted()
        for index in range(job.n):
            for delta in teller.words(f"{job.prompt}{index}", index):
                yield delta
        yield teller.finished()

    answer, _ = await answer_of(script, prompt=["x", "y"], n=2)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert [choice["text"] for choice in answer["choices"]] == ["x0", "x1", "y0", "y1"]


async def test_prompts_without_a_seed_draw_apart_and_with_one_alike() -> None:
    _, free = await answer_of(prompt=["x", "x"])
    _, seeded = await answer_of(prompt=["x", "x"], seed=5)
    assert free[0].sampling.seed != free[1].sampling.seed
    assert [job.sampling.seed for job in seeded] == [5, 5]


@pytest.mark.parametrize("n", [1, 2])
async def test_a_stream_gives_the_text_of_the_whole_answer_then_usage_then_done(n: int) -> None:
    chunks, raw = await stream_of(prompt=["x", "y"], n=n, stream_options={"include_usage": True})
    texts = [""] * (2 * n)
    reasons: dict[int, str] = {}
    for chunk in chunks[:-1]:
        assert chunk["usage"] is None
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        if choice["finish_reason"]:
            reasons[choice["index"]] = choice["finish_reason"]
    assert texts == [TEXT] * (2 * n)
    assert reasons == dict.fromkeys(range(2 * n), "stop")
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 2 * n * len(WORDS)
    assert raw.endswith("data: [DONE]\n\n")


async def test_an_echo_puts_the_prompt_before_the_text() -> None:
    answer, _ = await answer_of(echo=True)
    assert answer["choices"][0]["text"] == "Say" + TEXT
    chunks, _ = await stream_of(echo=True)
    assert chunks[0]["choices"][0]["text"] == "Say"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Say" + TEXT


async def test_token_ids_stand_in_the_answer_and_in_chunks_where_asked_for() -> None:
    answer, _ = await answer_of(return_token_ids=True)
    assert answer["prompt_token_ids"] == answer["choices"][0]["prompt_token_ids"] == list(range(7))
    assert answer["choices"][0]["token_ids"] == list(range(len(WORDS)))
    chunks, _ = await stream_of(return_token_ids=True)
    assert chunks[0]["choices"][0]["prompt_token_ids"] == list(range(7))
    assert [one for chunk in chunks for one in chunk["choices"][0]["token_ids"]] == list(range(len(WORDS)))


async def test_log_probabilities_have_the_older_shape() -> None:
    async def script(job: CompletionJob) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        yield teller.accepted()
        for delta in teller.words("ab c"):
            top = (TopLogprob("ab ", b"ab ", -0.5), TopLogprob("z", b"z", float("-inf")))
            token = TokenLogprob(delta.text, delta.text.encode(), -0.5 if delta.start == 0 else -2.0, top)
            yield type(delta)(
                **{name: getattr(delta, name) for name in delta.__struct_fields__} | {"logprobs": (token,)}
            )
        yield teller.finished()

    answer, (job,) = await answer_of(script, logprobs=2)
    assert (job.sampling.logprobs, job.sampling.top_logprobs) == (True, 2)
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["ab ", "c"],
        "token_logprobs": [-0.5, -2.0],
        "top_logprobs": [{"ab ": -0.5, "z": -9999.0}, {"c": -2.0, "ab ": -0.5, "z": -9999.0}],
        "text_offset": [0, 3],
    }


SCORED = (
    (),
    (RankedToken(1, "a", -3.0, 7), RankedToken(5, "b", -0.5, 1), RankedToken(6, "b", -1.5, 2)),
    (RankedToken(2, "bc", float("-inf"), 9), RankedToken(7, "x", -0.25, 1), RankedToken(8, "bc", -2.0, 2)),
)
"""Of a prompt of the tokens "S", "a" and "bc"."""


async def tell_scored(job: CompletionJob) -> AsyncGenerator[Event, None]:
    """A worker that scores a prompt of three tokens, and dies in its first epoch before a second token."""
    teller = Teller(job)
    yield msgspec.structs.replace(
        teller.accepted(prompt_tokens=3),
        prompt_token_texts=("S", "a", "bc"),
        prompt_logprobs=None if job.emitted else SCORED,
    )
    for delta in teller.words(TEXT):
        yield msgspec.structs.replace(delta, logprobs=(TokenLogprob(delta.text, b"", -0.5, ()),))
        if job.epoch == 0:
            raise WorkerDied
    yield teller.finished()


async def test_a_scored_echo_begins_with_the_prompts_tokens_and_outlives_its_worker() -> None:
    answer, (_, resumed) = await answer_of(tell_scored, echo=True, logprobs=2)
    assert resumed.emitted
    choice = answer["choices"][0]
    told = choice["logprobs"]
    assert choice["text"] == "Say" + TEXT
    assert told["tokens"][:4] == ["S", "a", "bc", " "]
    assert told["token_logprobs"][:4] == [None, -3.0, -9999.0, -0.5]
    assert told["top_logprobs"][:3] == [None, {"a": -3.0, "b": -0.5}, {"bc": -2.0, "x": -0.25}]
    assert told["text_offset"][:5] == [0, 1, 2, 4, 5]
    assert {len(column) for column in told.values()} == {3 + len(WORDS)}
    assert "prompt_logprobs" not in choice


async def test_a_streams_first_chunk_has_the_scored_echo() -> None:
    chunks, _ = await stream_of(tell_scored, echo=True, logprobs=0)
    told = chunks[0]["choices"][0]
    assert (told["text"], told["logprobs"]["top_logprobs"]) == ("Say", [None, {"a": -3.0}, {"bc": -9999.0}])
    assert chunks[1]["choices"][0]["logprobs"]["text_offset"] == [4]


async def test_the_prompts_log_probabilities_are_told_as_vllm_does_in_every_choice() -> None:
    answer, (job, _) = await answer_of(tell_scored, prompt_logprobs=1)
    assert job.sampling.prompt_logprobs == 1
    own = {"logprob": -3.0, "rank": 7, "decoded_token": "a"}
    assert answer["choices"][0]["prompt_logprobs"] == [
        None,
        {"1": own, "5": {"logprob": -0.5, "rank": 1, "decoded_token": "b"}},
        {
            "2": {"logprob": -9999.0, "rank": 9, "decoded_token": "bc"},
            "7": {"logprob": -0.25, "rank": 1, "decoded_token": "x"},
        },
    ]
    chat = {"model": "demo", "messages": [{"role": "user", "content": "Say"}], "prompt_logprobs": 0}
    async with client_of(MemoryQueue(tell_scored)) as client:
        reply = await client.post("/v1/chat/completions", json=chat)
    assert [told and len(told) for told in reply.json()["prompt_logprobs"]] == [None, 1, 1]
    assert reply.json()["prompt_logprobs"][1] == {"1": own}


@pytest.mark.parametrize(
    ("request_body", "code", "param"),
    [
        ({}, "missing_required_parameter", "prompt"),
        ({"prompt": 5}, "invalid_type", "prompt"),
        ({"prompt": []}, "invalid_type", "prompt"),
        ({"prompt": [1, "x"]}, "invalid_type", "prompt"),
        ({"prompt": ["x", 1]}, "invalid_type", "prompt.1"),
        ({"prompt": [[1], [True]]}, "invalid_type", "prompt.1"),
        ({"prompt": [-1]}, "invalid_value", "prompt"),
        ({"prompt": ["x"] * 65}, "invalid_value", "prompt"),
        ({"prompt": "x" * 2_000_000}, "context_length_exceeded", "prompt"),
        ({"prompt": "x", "suffix": "y"}, "unsupported_parameter", "suffix"),
        ({"prompt": "x", "best_of": 2}, "unsupported_parameter", "best_of"),
        ({"prompt": "x", "logprobs": 6}, "invalid_value", "logprobs"),
        ({"prompt": "x", "logprobs": True}, "invalid_type", "logprobs"),
        ({"prompt": "x", "max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"prompt": "x", "prompt_logprobs": 21}, "invalid_value", "prompt_logprobs"),
        ({"prompt": "x", "prompt_logprobs": -1}, "invalid_value", "prompt_logprobs"),
        ({"prompt": "x", "prompt_logprobs": 1, "stream": True}, "invalid_value", "prompt_logprobs"),
        ({"prompt": "x", "stream_options": {}}, "invalid_value", "stream_options"),
        ({"prompt": "x", "messages": []}, "unknown_parameter", "messages"),
    ],
)
async def test_what_cannot_be_served_is_refused_by_name(request_body: dict[str, Any], code: str, param: str) -> None:
    assert await refusal_of(**request_body) == (400, code, param)


async def test_a_lost_completion_goes_on_behind_what_its_client_has() -> None:
    async def script(job: CompletionJob) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        yield teller.accepted()
        for delta in teller.words(TEXT):
            yield delta
            if job.epoch == 0 and job.prompt == "y" and delta.start == 1:
                raise WorkerDied
        yield teller.finished()

    answer, jobs = await answer_of(script, prompt=["x", "y"], echo=True)
    assert [choice["text"] for choice in answer["choices"]] == ["x" + TEXT, "y" + TEXT]
    resumed = jobs[-1]
    assert (resumed.prompt, resumed.epoch, resumed.emitted[0].token_ids) == ("y", 1, (0, 1))


@pytest.mark.parametrize("stream", [False, True])
async def test_one_prompt_that_is_refused_refuses_all_and_cancels_the_others(stream: bool) -> None:
    async def script(job: CompletionJob) -> AsyncGenerator[Event, None]:
        if job.prompt == "bad":
            yield Failed(
                job_id=job.job_id, epoch=0, seq=0, code="context_length_exceeded", message="No.", param="prompt"
            )
            return
        yield Teller(job).accepted()
        await asyncio.Event().wait()

    queue = MemoryQueue(script)
    async with client_of(queue) as client:
        reply = await client.post(PATH, json=body(["good", "bad"], stream=stream))
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "prompt")
    assert queue.cancelled == [queue.submitted[0].job_id]


async def test_a_later_failure_is_an_event_and_the_end_without_done() -> None:
    async def script(job: CompletionJob) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        yield teller.accepted()
        yield teller.words(TEXT)[0]
        await asyncio.sleep(0)
        yield Failed(job_id=job.job_id, epoch=0, seq=2, code="engine_error", message="It failed.")

    async def numbered(job: CompletionJob) -> AsyncGenerator[Event, None]:
        seq = 0
        async for event in script(job):
            yield type(event)(**{name: getattr(event, name) for name in event.__struct_fields__} | {"seq": seq})
            seq += 1

    chunks, raw = await stream_of(numbered)
    assert chunks[-1]["error"]["code"] == "engine_error"
    assert "[DONE]" not in raw


async def post(path: str, **request: Any) -> tuple[dict[str, Any], Any]:
    queue = MemoryQueue(tell(""))
    async with client_of(queue) as client:
        reply = await client.post(path, json={"model": "demo", **request})
    assert reply.status_code == 200, reply.text
    (job,) = queue.submitted
    assert job.n == 0
    return reply.json(), job


async def test_tokenize_asks_for_a_texts_ids_and_generates_nothing() -> None:
    answer, job = await post("/v1/tokenize", prompt="hello", add_special_tokens=False)
    assert answer == {
        "tokens": list(range(7)), "count": 7, "max_model_len": 4096, "image_tokens": 0, "video_tokens": 0,
    }  # fmt: skip
    assert isinstance(job, CompletionJob)
    assert (job.prompt, job.add_special_tokens) == ("hello", False)


async def test_tokenize_takes_a_conversation_with_media() -> None:
    content = [{"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}]
    messages = [{"role": "user", "content": content}]
    answer, job = await post("/v1/tokenize", messages=messages, return_token_strs=True, add_generation_prompt=False)
    assert answer["token_strs"] == [f"<{token_id}>" for token_id in answer["tokens"]]
    assert isinstance(job, ChatJob)
    assert isinstance(job.messages[0].parts[0], ImagePart)
    assert not job.add_generation_prompt


async def test_detokenize_asks_for_the_text_of_ids() -> None:
    answer, job = await post("/v1/detokenize", tokens=[5, 6])
    assert answer == {"prompt": "(5, 6)"}
    assert job.echo


@pytest.mark.parametrize(
    ("path", "request_body", "code", "param"),
    [
        ("tokenize", {}, "invalid_value", "prompt"),
        ("tokenize", {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, "invalid_value", "prompt"),
        ("tokenize", {"prompt": ["x"]}, "invalid_type", "prompt"),
        ("detokenize", {}, "missing_required_parameter", "tokens"),
        ("detokenize", {"tokens": "x"}, "invalid_type", "tokens"),
        ("detokenize", {"tokens": [1.5]}, "invalid_type", "tokens"),
    ],
)
async def test_wrong_token_requests_are_refused_by_name(
    path: str, request_body: dict[str, Any], code: str, param: str
) -> None:
    assert await refusal_of(f"/v1/{path}", **request_body) == (400, code, param)
