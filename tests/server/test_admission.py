"""How many requests are let in at once."""

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest

from schemas.errors import Overloaded
from schemas.events import Event
from schemas.jobs import ChatJob
from server.admission import Admission
from server.app import GatewayLimits
from tests.fakes.clock import Clock
from tests.fakes.memory_queue import MemoryQueue, tell
from tests.server.serving import CHAT, ask, client_of


def at_most(count: int | None) -> Callable[[str], int | None]:
    return lambda tenant: count


def test_places_are_given_back_also_after_failures() -> None:
    admission = Admission(1, at_most(1), 1000, Clock())
    with pytest.raises(ValueError, match="broken"), admission.place("a"):
        raise ValueError("broken")
    with admission.place("a"):
        assert admission.in_flight == 1
        with pytest.raises(Overloaded), admission.place("a"):
            pass
    assert admission.in_flight == 0


def test_one_tenant_cannot_take_the_places_of_another() -> None:
    admission = Admission(3, at_most(2), 1000, Clock())
    with admission.place("a"), admission.place("a"):
        with pytest.raises(Overloaded) as refusal, admission.place("a"):
            pass
        assert refusal.value.code == "rate_limit_exceeded"
        with admission.place("b"):
            with pytest.raises(Overloaded) as refusal, admission.place("c"):
                pass
            assert refusal.value.code == "queue_full"


def test_bytes_are_bounded_over_all_requests_and_given_back() -> None:
    admission = Admission(3, at_most(3), 1000, Clock())
    with admission.place("a") as first, admission.place("b") as second:
        first.charge(600)
        second.charge(400)
        with pytest.raises(Overloaded):
            second.charge(1)
    with admission.place("a") as third:
        third.charge(1000)


async def test_a_body_that_finds_no_room_is_refused_with_retry_after() -> None:
    async with client_of(MemoryQueue(tell("x")), limits=GatewayLimits(max_bytes_in_flight=200)) as client:
        refused = await client.post(CHAT, json=ask("x" * 200))
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert (await client.post(CHAT, json=ask())).status_code == 200


def test_when_to_come_back_follows_how_long_requests_take() -> None:
    clock = Clock()
    admission = Admission(1, at_most(None), 1000, clock)
    assert admission.retry_after_s() == 1.0
    for _ in range(50):
        with admission.place(""):
            clock.advance(20.0)
    assert admission.retry_after_s() == pytest.approx(20.0, rel=0.02)
    for _ in range(50):
        with admission.place(""):
            clock.advance(900.0)
    assert admission.retry_after_s() == 60.0


@pytest.mark.parametrize("stream", [False, True])
async def test_one_request_too_many_is_refused_at_once_with_retry_after(stream: bool) -> None:
    go_on = asyncio.Event()

    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        await go_on.wait()
        async for event in tell("x")(job):
            yield event

    queue = MemoryQueue(script)
    async with client_of(queue, limits=GatewayLimits(max_in_flight=1)) as client:
        first = asyncio.create_task(client.post(CHAT, json=ask(stream=stream)))
        while not queue.submitted:
            await asyncio.sleep(0)
        refused = await client.post(CHAT, json=ask(stream=stream))
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        go_on.set()
        assert (await first).status_code == 200
        assert (await client.post(CHAT, json=ask(stream=stream))).status_code == 200


async def test_a_full_queue_is_429_with_the_queues_own_estimate() -> None:
    queue = MemoryQueue(tell("x"), models=(), max_waiting=0)
    async with client_of(queue, expected_models=["demo"]) as client:
        refused = await client.post(CHAT, json=ask())
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "3")
    assert refused.json()["error"]["code"] == "queue_full"
