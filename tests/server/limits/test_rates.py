"""Requests and tokens a minute: who is refused, until when, and what the headers say."""

import asyncio
import time
from collections.abc import AsyncGenerator
from types import SimpleNamespace

import pytest

from schemas.errors import Overloaded
from schemas.events import Event, Failed
from schemas.jobs import ChatJob
from server.app import GatewayLimits
from server.limits.key_limits import KeyLimits
from server.limits.rates import RateLimits
from tests.fakes.clock import Clock
from tests.fakes.memory_queue import MemoryQueue, Teller, tell
from tests.server.serving import CHAT, ask, client_of

NAMES = [f"x-ratelimit-{kind}-{what}" for what in ("requests", "tokens") for kind in ("limit", "remaining", "reset")]


def rates(clock: Clock, **limits: int) -> RateLimits:
    return RateLimits(lambda tenant: KeyLimits(**limits), clock)


def headers(one: RateLimits, tenant: str = "a") -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in one.headers(tenant)}


def test_requests_beyond_the_minutes_are_refused_until_the_next_has_flown_in() -> None:
    clock = Clock()
    one = rates(clock, requests_per_minute=2)
    one.take_request("a")
    one.take_request("a")
    with pytest.raises(Overloaded, match="2 requests a minute") as refusal:
        one.take_request("a")
    assert (refusal.value.code, refusal.value.retry_after_s) == ("rate_limit_exceeded", 30.0)
    one.take_request("b")
    clock.advance(30)
    one.take_request("a")


def test_the_headers_tell_limit_rest_and_time_until_all_is_back() -> None:
    clock = Clock()
    one = rates(clock, requests_per_minute=60, tokens_per_minute=1000)
    one.take_request("a")
    one.reserve_tokens("a", 100)
    assert headers(one) == dict(zip(NAMES, ["60", "59", "1s", "1000", "900", "6s"], strict=True))
    assert headers(rates(clock, tokens_per_minute=5)).keys() == set(NAMES[3:])
    assert headers(rates(clock)) == {}


def test_usage_sets_the_reservation_right_in_both_directions() -> None:
    clock = Clock()
    one = rates(clock, tokens_per_minute=1000)
    one.settle("a", one.reserve_tokens("a", 600), used=100)
    assert headers(one)["x-ratelimit-remaining-tokens"] == "900"
    one.settle("a", one.reserve_tokens("a", 100), used=2000)
    assert headers(one)["x-ratelimit-remaining-tokens"] == "0"
    with pytest.raises(Overloaded, match="tokens a minute") as refusal:
        one.take_request("a")
    assert refusal.value.retry_after_s == pytest.approx(66.06)
    clock.advance(67)
    one.take_request("a")


def test_a_job_dearer_than_a_minutes_worth_needs_a_full_bucket_and_no_more() -> None:
    clock = Clock()
    one = rates(clock, tokens_per_minute=100)
    assert one.reserve_tokens("a", 100_000) == 100
    with pytest.raises(Overloaded):
        one.reserve_tokens("a", 1)
    clock.advance(60)
    assert one.reserve_tokens("a", 100_000) == 100


def test_limits_that_change_hold_from_then_on() -> None:
    limits = {"a": KeyLimits(requests_per_minute=1)}
    one = RateLimits(lambda tenant: limits[tenant], Clock())
    one.take_request("a")
    with pytest.raises(Overloaded):
        one.take_request("a")
    limits["a"] = KeyLimits()
    one.take_request("a")
    assert headers(one) == {}


@pytest.fixture
def still_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of gateways that a test makes; it stands still."""
    clock = Clock()
    monkeypatch.setattr("server.app.time", SimpleNamespace(monotonic=clock, time=time.time))
    return clock


LIMITED = GatewayLimits(of_key=KeyLimits(requests_per_minute=2, tokens_per_minute=6000))


@pytest.mark.parametrize("stream", [False, True])
async def test_every_answer_of_a_generating_route_has_the_headers(still_clock: Clock, stream: bool) -> None:
    async with client_of(MemoryQueue(tell("a cat sat")), limits=LIMITED) as client:
        good = await client.post(CHAT, json=ask(stream=stream))
        bad = await client.post(CHAT, json={"model": "nope"})
        refused = await client.post(CHAT, json=ask(stream=stream))
        assert [answer.status_code for answer in (good, bad, refused)] == [200, 400, 429]
        for answer in (good, bad, refused):
            assert set(NAMES) <= set(answer.headers)
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in (good, bad, refused)] == ["1", "0", "0"]
        assert (refused.headers["retry-after"], refused.headers["x-should-retry"]) == ("30", "true")
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert not set(NAMES) & set((await client.get("/v1/models")).headers)


async def test_without_limits_there_are_no_headers() -> None:
    async with client_of(MemoryQueue(tell("x"))) as client:
        assert not set(NAMES) & set((await client.post(CHAT, json=ask())).headers)


async def test_tokens_are_counted_by_usage_once_a_request_has_ended(still_clock: Clock) -> None:
    async with client_of(MemoryQueue(tell("a cat sat")), limits=LIMITED) as client:
        first = await client.post(CHAT, json=ask(max_tokens=3000))
        assert first.headers["x-ratelimit-limit-tokens"] == "6000"
        second = await client.post(CHAT, json={"model": "nope"})
    assert second.headers["x-ratelimit-remaining-tokens"] == "5990", "7 of the prompt and 3 words"


async def test_a_request_that_is_refused_before_its_prompt_is_known_costs_no_tokens(still_clock: Clock) -> None:
    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        yield Failed(job_id=job.job_id, epoch=0, seq=0, code="image_parse_error", message="Broken.")

    limits = GatewayLimits(of_key=KeyLimits(tokens_per_minute=100))
    async with client_of(MemoryQueue(script), limits=limits) as client:
        for _ in range(3):
            assert (await client.post(CHAT, json=ask(max_tokens=100))).status_code == 400


async def test_tokens_that_run_out_in_the_middle_refuse_the_next_request_and_not_the_running_one(
    still_clock: Clock,
) -> None:
    go_on = asyncio.Event()

    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        yield teller.accepted(prompt_tokens=1000)
        await go_on.wait()
        for delta in teller.words("a cat"):
            yield delta
        yield teller.finished()

    queue = MemoryQueue(script)
    limits = GatewayLimits(of_key=KeyLimits(tokens_per_minute=100))
    async with client_of(queue, limits=limits, api_keys=["sk-a", "sk-b"]) as client:
        key = {"authorization": "Bearer sk-a"}
        running = asyncio.create_task(client.post(CHAT, json=ask(max_tokens=100), headers=key))
        while not queue.submitted:
            await asyncio.sleep(0)
        refused = await client.post(CHAT, json=ask(), headers=key)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        go_on.set()
        assert (await running).status_code == 200
        assert (await client.post(CHAT, json=ask(), headers=key)).status_code == 429, "the debt is still owed"
        other = await client.post(CHAT, json=ask(), headers={"authorization": "Bearer sk-b"})
        assert other.status_code == 200


async def test_what_generates_nothing_is_none_of_the_keys_tokens() -> None:
    limits = GatewayLimits(of_key=KeyLimits(requests_per_minute=1, tokens_per_minute=10))
    async with client_of(MemoryQueue(tell("x")), limits=limits) as client:
        for _ in range(3):
            answer = await client.post("/v1/tokenize", json={"model": "demo", "prompt": "x" * 500})
            assert answer.status_code == 200
