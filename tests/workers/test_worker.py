"""The worker's loop over a list of messages and a scripted handler."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from schemas.control import Cancel, Drain, Heartbeat, Hello
from schemas.events import Accepted, Delta, Failed, Finished
from tests.fakes.memory_source import MemorySource
from tests.fakes.messages import chat_job, hello
from tests.fakes.scripted_backend import ScriptedHandler, answer
from workers.handlers.base import FatalError
from workers.worker import Worker

HELLO = hello("w")


class Rig:
    """A worker that runs."""

    def __init__(self, max_jobs: int = 2, heartbeat_s: float = 60.0, drain_s: float | None = None) -> None:
        self.source = MemorySource()
        self.handler = ScriptedHandler()
        self.worker = Worker(self.source, self.handler, HELLO, max_jobs, heartbeat_s, drain_s)
        self.life = asyncio.create_task(self.worker.run())

    async def answered(self, job_id: str) -> list:
        events = self.source.events
        await self.source.until(lambda: any(isinstance(event, Finished | Failed) for event in events(job_id)))
        return events(job_id)

    async def drained(self) -> None:
        """Drain, with the gateway's word that nothing more is on its way."""
        self.worker.drain()
        self.source.deliver(Drain())
        await asyncio.wait_for(self.life, 5)

    async def holds(self, job_id: str) -> None:
        """Wait until the job has published its first token and stands at the gate."""
        await self.source.until(lambda: any(isinstance(event, Delta) for event in self.source.events(job_id)))


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    rig.life.cancel()
    await asyncio.gather(rig.life, return_exceptions=True)


async def test_a_worker_says_hello_and_claims_what_it_can_hold(rig: Rig) -> None:
    await rig.source.until(lambda: len(rig.source.log) >= 3)
    assert rig.source.log[:2] == [HELLO, 2]
    assert isinstance(rig.source.log[2], Heartbeat)


async def test_a_jobs_events_are_numbered_without_a_gap(rig: Rig) -> None:
    rig.source.deliver(chat_job("a", text="once"))
    events = await rig.answered("a")
    assert [event.seq for event in events] == list(range(10))
    assert isinstance(events[0], Accepted) and isinstance(events[-1], Finished)
    assert "".join(event.text for event in events if isinstance(event, Delta)) == answer("once", 0, 8)


async def test_each_job_that_ends_is_replaced_by_one_credit(rig: Rig) -> None:
    for name, text in (("a", "fine"), ("b", "refuse"), ("c", "raise"), ("d", "forget")):
        rig.source.deliver(chat_job(name, text=text))
    for name in "abcd":
        await rig.answered(name)
    await rig.source.until(lambda: sum(rig.source.sent(int)) == 2 + 4)


async def test_a_refusal_reaches_the_client_with_its_field(rig: Rig) -> None:
    rig.source.deliver(chat_job("a", text="refuse"))
    (event,) = await rig.answered("a")
    assert (event.code, event.param, event.seq) == ("context_length_exceeded", "messages", 0)


async def test_a_bug_is_an_engine_error_without_its_insides(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.source.deliver(chat_job("a", text="raise"))
    events = await rig.answered("a")
    assert [type(event) for event in events] == [Accepted, Delta, Failed]
    assert (events[-1].code, events[-1].seq) == ("engine_error", 2)
    assert "a bug" not in events[-1].message
    assert "ZeroDivisionError" in caplog.text


async def test_a_handler_that_forgets_the_last_event_does_not_leave_its_client_waiting(rig: Rig) -> None:
    rig.source.deliver(chat_job("a", text="forget"))
    assert isinstance((await rig.answered("a"))[-1], Failed)


async def test_a_cancelled_job_stops_and_publishes_nothing_more(rig: Rig) -> None:
    rig.source.deliver(chat_job("a", text="wait"))
    await rig.holds("a")
    rig.source.deliver(Cancel(job_id="a"))
    rig.source.deliver(Cancel(job_id="unknown"))
    await rig.source.until(lambda: sum(rig.source.sent(int)) == 3)
    rig.handler.gate.set()
    assert rig.handler.running == set()
    await rig.drained()
    assert len(rig.source.events("a")) == 2


async def test_jobs_run_side_by_side(rig: Rig) -> None:
    rig.source.deliver(chat_job("a", text="wait"))
    rig.source.deliver(chat_job("b"))
    await rig.answered("b")
    assert rig.handler.running == {"a"}


async def test_a_later_epoch_of_a_running_job_takes_its_place(rig: Rig) -> None:
    rig.source.deliver(chat_job("a", text="wait"))
    await rig.holds("a")
    rig.source.deliver(chat_job("a", text="go on", epoch=1))
    events = await rig.answered("a")
    assert [event.epoch for event in events] == [0] * 2 + [1] * 10
    await rig.source.until(lambda: sum(rig.source.sent(int)) == 4)


async def test_a_job_that_is_delivered_twice_runs_once(rig: Rig) -> None:
    rig.source.deliver(chat_job("a", text="wait"))
    rig.source.deliver(chat_job("a", text="wait"))
    await rig.holds("a")
    rig.handler.gate.set()
    assert len(await rig.answered("a")) == 10
    await rig.source.until(lambda: sum(rig.source.sent(int)) == 4)


async def test_heartbeats_name_the_jobs_that_are_held() -> None:
    rig = Rig(heartbeat_s=0.01)
    rig.source.deliver(chat_job("a", text="wait"))
    await rig.source.until(lambda: any(beat.running for beat in rig.source.sent(Heartbeat)))
    beat = rig.source.sent(Heartbeat)[-1]
    assert (beat.job_ids, beat.state, beat.metrics) == (("a",), "ready", {"tokens_total": 1.0})
    rig.handler.gate.set()
    await rig.source.until(lambda: rig.source.sent(Heartbeat)[-1].job_ids == ())
    last_event = max(index for index, entry in enumerate(rig.source.log) if isinstance(entry, Finished))
    without_it = next(
        index
        for index, entry in enumerate(rig.source.log)
        if isinstance(entry, Heartbeat) and index > rig.source.log.index(beat) and not entry.job_ids
    )
    assert last_event < without_it, "a job may only be left out once its last event is sent"
    await rig.drained()


async def test_a_draining_worker_finishes_what_runs_and_claims_nothing(rig: Rig) -> None:
    rig.source.deliver(chat_job("a", text="wait"))
    await rig.holds("a")
    rig.worker.drain()
    await rig.source.until(lambda: rig.source.sent(Heartbeat)[-1].state == "draining")
    rig.source.deliver(chat_job("b", text="was on its way"))
    rig.source.deliver(Drain())
    assert isinstance((await rig.answered("b"))[-1], Finished)
    assert not rig.life.done()
    rig.handler.gate.set()
    await asyncio.wait_for(rig.life, 5)
    assert isinstance(rig.source.events("a")[-1], Finished)
    assert sum(rig.source.sent(int)) == 2
    assert rig.source.log[-1] == "goodbye"


async def test_what_outlasts_the_time_to_drain_is_handed_back_without_a_last_event() -> None:
    rig = Rig(heartbeat_s=0.01, drain_s=0.05)
    rig.source.deliver(chat_job("a", text="wait"))
    rig.source.deliver(chat_job("b", text="quick"))
    await rig.holds("a")
    await rig.answered("b")
    await rig.drained()
    assert [type(event) for event in rig.source.events("a")] == [Accepted, Delta]
    assert rig.source.log[-1] == "goodbye"
    beats = [beat for beat in rig.source.sent(Heartbeat) if beat.state == "draining"]
    assert beats and all("a" in beat.job_ids for beat in beats), "a job that is left out counts as lost"
    assert rig.handler.running == set()


async def test_the_gateways_order_drains_as_well(rig: Rig) -> None:
    rig.source.deliver(chat_job("a"))
    await rig.answered("a")
    rig.source.deliver(Drain())
    await rig.source.until(lambda: rig.source.sent(Heartbeat)[-1].state == "draining")
    rig.source.deliver(Drain())
    await asyncio.wait_for(rig.life, 5)
    assert rig.source.log[-1] == "goodbye"


async def test_a_broken_backend_ends_the_worker_and_fails_no_job(rig: Rig) -> None:
    rig.source.deliver(chat_job("a", text="wait"))
    await rig.holds("a")
    rig.source.deliver(chat_job("b", text="break"))
    with pytest.raises(FatalError, match="the device is lost"):
        await asyncio.wait_for(rig.life, 5)
    assert rig.source.sent(Failed) == []
    assert rig.source.log[-1] == "goodbye the device is lost"


async def test_a_backend_that_breaks_between_jobs_ends_the_worker(rig: Rig) -> None:
    await rig.source.until(lambda: len(rig.source.sent(Hello)) == 1)
    rig.handler.fatal.set_exception(FatalError("out of memory"))
    with pytest.raises(FatalError, match="out of memory"):
        await asyncio.wait_for(rig.life, 5)
