"""The time that a client gives its request, and the time that a model without a worker is given."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request

from schemas.errors import RequestError, Unavailable
from server.app import GatewayLimits
from server.inflight import Inflight
from server.limits.deadline import asked_timeout_s, within
from server.limits.gate import Gate
from server.limits.key_limits import KeyLimits
from server.limits.rates import RateLimits
from server.metrics import JobMetrics
from server.transport.base import JobLost
from tests.fakes.clock import Clock
from tests.fakes.memory_queue import MemoryQueue, tell, worker
from tests.fakes.messages import chat_job
from tests.server.serving import CHAT, ask, chunks_of, client_of
from tests.server.test_inflight import hang, never_answer


def request(value: str) -> Request:
    return Request({"type": "http", "headers": [(b"x-request-timeout", value.encode())]})


@pytest.mark.parametrize(("value", "seconds"), [("30", 30.0), ("0.5", 0.5), (" 7 ", 7.0), ("999999999", 999999999.0)])
def test_the_header_is_seconds(value: str, seconds: float) -> None:
    assert asked_timeout_s(request(value)) == seconds


@pytest.mark.parametrize("value", ["", "0", "0.0", "-1", "1e3", "nan", "inf", "ten", "1s", "1" * 40, "１"])
def test_anything_else_is_refused(value: str) -> None:
    with pytest.raises(RequestError) as refusal:
        asked_timeout_s(Request({"type": "http", "headers": [(b"x-request-timeout", value.encode("utf-8"))]}))
    assert refusal.value.param == "x-request-timeout"


def test_without_a_header_nothing_is_asked() -> None:
    assert asked_timeout_s(Request({"type": "http", "headers": []})) is None


def test_a_client_may_give_less_than_the_server_and_never_more() -> None:
    job = chat_job("a")
    assert within(job, None) is job and within(job, 9999.0) is job
    assert within(job, 2.5).timeout_s == 2.5


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/tokenize"])
async def test_every_route_that_makes_jobs_takes_the_header(path: str) -> None:
    body = ask() if path == CHAT else {"model": "demo", "prompt": "hello"}
    queue = MemoryQueue(tell("x"))
    async with client_of(queue) as client:
        assert (await client.post(path, json=body, headers={"x-request-timeout": "12"})).status_code == 200
        bad = await client.post(path, json=body, headers={"x-request-timeout": "soon"})
        assert (bad.status_code, bad.json()["error"]["param"]) == (400, "x-request-timeout")
    assert [job.timeout_s for job in queue.submitted] == [12.0]


async def test_an_overdue_request_is_504_and_its_job_cancelled() -> None:
    queue = MemoryQueue(never_answer)
    async with client_of(queue) as client:
        answer = await client.post(CHAT, json=ask(), headers={"x-request-timeout": "0.01"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert answer.headers["x-should-retry"] == "false"
    assert queue.cancelled == [queue.submitted[0].job_id]


async def test_an_overdue_stream_ends_with_an_error_event() -> None:
    queue = MemoryQueue(hang)
    async with client_of(queue) as client:
        answer = await client.post(CHAT, json=ask(stream=True), headers={"x-request-timeout": "0.01"})
    assert (answer.status_code, chunks_of(answer.text)[-1]["error"]["code"]) == (200, "deadline_exceeded")
    assert queue.cancelled == [queue.submitted[0].job_id]


async def test_no_worker_in_time_is_503_with_retry_after() -> None:
    queue = MemoryQueue(tell("x"), models=())
    async with client_of(queue, expected_models=["demo"], limits=GatewayLimits(worker_wait_s=0.001)) as client:
        answer = await client.post(CHAT, json=ask())
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
    assert "still being loaded" in answer.json()["error"]["message"]
    assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("5", "true")
    assert queue.cancelled == [queue.submitted[0].job_id]


def ledger(queue: MemoryQueue) -> Inflight:
    rates = RateLimits(lambda tenant: KeyLimits(), Clock())
    gate = Gate(lambda tenant: KeyLimits(), rates, 1000, Clock())
    return Inflight(queue, JobMetrics(CollectorRegistry(), Clock()), gate, worker_wait_s=30.0)


async def test_the_wait_begins_when_the_last_worker_is_gone_or_the_request_came() -> None:
    queue = MemoryQueue(never_answer, models=("other",))
    inflight = ledger(queue)
    async with inflight.open(chat_job("early", model="demo")) as early:
        now_s = early.began_s
        inflight.give_up_unserved(now_s)
        inflight.give_up_unserved(now_s + 29.9)
        assert not early.is_over
        queue.fleet.append(worker("demo"))
        inflight.give_up_unserved(now_s + 35)
        queue.fleet.pop()
        inflight.give_up_unserved(now_s + 40)
        inflight.give_up_unserved(now_s + 69)
        assert not early.is_over, "a worker was there in between"
        async with inflight.open(chat_job("late", model="demo")) as late:
            late.began_s = now_s + 69
            inflight.give_up_unserved(now_s + 71)
            assert early.is_over and not late.is_over
            with pytest.raises(Unavailable, match="No worker for this model came in time"):
                await early.take()
            inflight.give_up_unserved(now_s + 99)
            assert late.is_over
    await asyncio.sleep(0)
    assert queue.cancelled == ["early", "late"]


async def test_a_job_that_a_worker_has_is_not_given_up_with_the_waiting_ones() -> None:
    queue = MemoryQueue(hang)
    inflight = ledger(queue)
    async with inflight.open(chat_job("a", model="demo")) as stream:
        delivering = asyncio.create_task(inflight.run())
        while stream.is_waiting:
            await asyncio.sleep(0)
        queue.fleet.clear()
        inflight.give_up_unserved(stream.began_s)
        inflight.give_up_unserved(stream.began_s + 500)
        assert not stream.is_over
        inflight.deliver(JobLost("a", 0, "worker-demo"))
        assert stream.is_waiting
        inflight.give_up_unserved(stream.began_s + 500)
        inflight.give_up_unserved(stream.began_s + 530)
        assert stream.is_over
    await queue.close()
    await delivering
