"""The load generator against real gateways and against servers that misbehave."""

import json
import math
from collections.abc import AsyncGenerator

import httpx
import pytest

from schemas.events import Event
from schemas.jobs import ChatJob, ImagePart, TextPart
from server.loadgen import Answer, Load, ask, percentile, request_body, run_load, summarise
from tests.fakes.memory_queue import MemoryQueue, Teller, tell
from tests.server.serving import listening

TEXT = "a cat sat on the mat"


def load(url: str = "http://unused/v1", **options: object) -> Load:
    return Load(url, "demo", **{"num_clients": 2, "num_requests": 5, "max_tokens": 9, **options})  # type: ignore[arg-type]


def answer(ttft_s: float, total_s: float, error: str | None = None, gaps_s: tuple[float, ...] = ()) -> Answer:
    return Answer("x", 0 if error else 4, 0 if error else 10, ttft_s, gaps_s, total_s, error)


async def one(reply: httpx.Response) -> Answer:
    """What the generator makes of this reply."""
    transport = httpx.MockTransport(lambda _: reply)
    async with httpx.AsyncClient(transport=transport, base_url="http://server/v1") as client:
        return await ask(client, b"{}")


def events(*chunks: object, end: str = "data: [DONE]\n\n") -> httpx.Response:
    lines = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return httpx.Response(200, headers={"content-type": "text/event-stream; charset=utf-8"}, text=lines + end)


async def test_every_request_is_sent_once_and_answers_come_in_the_order_of_requests() -> None:
    async def echo(job: ChatJob) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        yield teller.accepted()
        part = job.messages[0].parts[-1]
        assert isinstance(part, TextPart)
        for event in teller.words(f"is {part.text.split()[0]}"):
            yield event
        yield teller.finished()

    queue = MemoryQueue(echo)
    async with listening(queue) as (host, port):
        report, answers = await run_load(load(f"http://{host}:{port}/v1", num_requests=7, num_clients=3))
    assert [given.text for given in answers] == [f"is {number}" for number in range(7)]
    assert (report.clients, report.requests, report.errors) == (3, 7, 0)
    assert report.tokens_per_s == pytest.approx(14 / report.wall_s)
    assert report.requests_per_s == pytest.approx(7 / report.wall_s)
    assert 0 < report.ttft_p50_s <= report.total_p50_s <= report.total_p99_s


async def test_whole_answers_have_no_time_to_first_token() -> None:
    queue = MemoryQueue(tell(TEXT))
    async with listening(queue) as (host, port):
        report, answers = await run_load(load(f"http://{host}:{port}/v1", is_streamed=False))
    assert {given.text for given in answers} == {TEXT}
    assert (report.errors, report.prompt_tokens) == (0, 7)
    assert math.isnan(report.ttft_p50_s) and math.isnan(report.itl_p99_s) and report.total_p50_s > 0


async def test_a_key_and_more_parameters_reach_the_server() -> None:
    queue = MemoryQueue(tell(TEXT))
    async with listening(queue, api_keys=["sk-test"]) as (host, port):
        url = f"http://{host}:{port}/v1"
        refused, answers = await run_load(load(url, num_requests=1))
        allowed, _ = await run_load(load(url, num_requests=1, api_key="sk-test", extra={"ignore_eos": True}))
    assert (refused.errors, allowed.errors) == (1, 0)
    assert (answers[0].error or "").startswith("401 ")
    assert [job.sampling.ignore_eos for job in queue.submitted] == [True]


async def test_pictures_differ_from_request_to_request_and_take_their_sizes_in_turn() -> None:
    pytest.importorskip("PIL")
    queue = MemoryQueue(tell(TEXT))
    sizes = [(40, 30), (64, 64)]
    async with listening(queue) as (host, port):
        await run_load(load(f"http://{host}:{port}/v1", num_requests=4, picture_sizes=sizes, pictures_per_request=2))
    urls = [part.url for job in queue.submitted for part in job.messages[0].parts if isinstance(part, ImagePart)]
    assert len(urls) == len(set(urls)) == 8
    bodies = [request_body(load(picture_sizes=sizes), number) for number in range(3)]
    assert bodies[0] == request_body(load(picture_sizes=sizes[:1]), 0)
    assert bodies[1] == request_body(load(picture_sizes=sizes[1:]), 1)


def test_a_prompt_has_the_words_that_were_asked_for_and_no_two_are_equal() -> None:
    texts = [
        json.loads(request_body(load(prompt_words=50), number))["messages"][0]["content"][0]["text"]
        for number in range(2)
    ]
    assert [len(text.split()) for text in texts] == [51, 51]  # the request's number goes before
    assert texts[0].split()[1:] != texts[1].split()[1:]


async def test_a_server_that_cannot_be_reached_is_an_error_of_each_request() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(refuse), base_url="http://server/v1") as client:
        assert (await ask(client, b"{}")).error == "refused"


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (httpx.Response(503, text="busy"), "503 busy"),
        (events({"choices": [{"delta": {"content": "a"}}]}, {"error": {"code": "x"}}), "{'code': 'x'}"),
        (events({"choices": [{"delta": {"content": "a"}}]}, end=""), "the stream was cut off"),
        (events({"choices": [{}]}), "not an answer of this API: KeyError"),
        (httpx.Response(200, text="<html>"), "not an answer of this API: JSONDecodeError"),
        (httpx.Response(200, json={"choices": []}), "not an answer of this API: IndexError"),
    ],
    ids=["status", "event", "cut", "chunk", "page", "whole"],
)
async def test_answers_that_are_none_are_errors(reply: httpx.Response, error: str) -> None:
    assert (await one(reply)).error == error


async def test_usage_and_text_of_a_stream_are_those_of_its_chunks() -> None:
    usage = {"completion_tokens": 3, "prompt_tokens": 8, "prompt_tokens_details": {"cached_tokens": 5}}
    given = await one(
        events(
            {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
            {"choices": [{"delta": {"content": "Hel"}}]},
            {"choices": [{"delta": {"content": "lo"}}]},
            {"choices": [], "usage": usage},
        )
    )
    assert (given.text, given.tokens, given.prompt_tokens, given.cached_tokens) == ("Hello", 3, 8, 5)
    assert given.error is None and len(given.gaps_s) == 1


def test_requests_that_failed_count_as_errors_and_for_nothing_else() -> None:
    answers = [answer(0.1, 1.0, gaps_s=(0.2,)), answer(math.nan, 9.0, "500"), answer(0.3, 2.0, gaps_s=(0.4, 0.6))]
    report = summarise(2, answers, wall_s=4.0)
    assert (report.requests, report.errors, report.prompt_tokens) == (3, 1, 10)
    assert (report.tokens_per_s, report.requests_per_s) == (2.0, 0.5)
    assert (report.ttft_p50_s, report.ttft_p99_s) == (0.1, 0.3)
    assert (report.itl_p50_s, report.itl_p99_s) == (0.4, 0.6)
    assert (report.total_p50_s, report.total_p99_s) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("percent", "value"), [(0, 1.0), (50, 50.0), (99, 99.0), (100, 100.0)], ids=["least", "middle", "p99", "most"]
)
def test_a_percentile_is_the_value_of_the_nearest_rank(percent: float, value: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], percent) == value


def test_a_percentile_of_nothing_is_no_number() -> None:
    assert math.isnan(percentile([], 50))


async def test_an_answer_with_its_finish_reason_is_whole_without_the_usual_last_line() -> None:
    given = await one(
        events(
            {"choices": [{"delta": {"content": "Hi"}}]}, {"choices": [{"delta": {}, "finish_reason": "stop"}]}, end=""
        )
    )
    assert given.error is None and given.text == "Hi"
