"""What every transport must do, told from both of its ends."""

import asyncio

import msgspec
import pytest

from schemas.control import Cancel, Drain
from schemas.data_url import LongText
from schemas.errors import Overloaded
from schemas.jobs import ChatJob, ImagePart, Message, TextPart
from server.transport.affinity import AffinityCounts
from server.transport.base import JobLost
from tests.contract.conftest import LOCAL_LEASE_S, PATIENCE_S, Inbox, Transport
from tests.fakes.messages import accepted, chat_job, delta, finished, heartbeat
from workers.transport.base import JobSource


async def test_a_job_arrives_as_it_was_sent(transport: Transport) -> None:
    _, inbox = await transport.worker("w")
    job = chat_job("a", text="ünïcode \N{SNOWMAN} " * 1000, priority=2)
    await transport.queue.submit(job)
    assert await inbox.next() == job


async def test_long_texts_arrive_with_their_job_and_again_with_the_next_attempt(transport: Transport) -> None:
    _, inbox = await transport.worker("w")
    body = bytearray(b"QUJD" * 200_000)
    media = tuple(
        ImagePart("data:image/png;base64,", str(at), text=LongText(memoryview(body)[4 * at :])) for at in range(4)
    )
    first = msgspec.structs.replace(chat_job("a"), messages=(Message("user", (*media, TextPart("what?"))),))
    for job in (first, chat_job("b"), msgspec.structs.replace(first, epoch=1)):
        await transport.queue.submit(job, front=bool(job.epoch))
        assert await inbox.next() == job


async def test_a_job_that_was_there_first_waits_for_a_worker(transport: Transport) -> None:
    await transport.queue.submit(chat_job("a"))
    await transport.until(lambda: transport.queue.depth("tiny") == 1)
    _, inbox = await transport.worker("w")
    assert (await inbox.next()).job_id == "a"
    await transport.until(lambda: transport.queue.depth("tiny") == 0)


async def test_events_arrive_in_the_order_in_which_they_were_published(transport: Transport, gateway: Inbox) -> None:
    source, inbox = await transport.worker("w")
    await transport.queue.submit(chat_job("a"))
    await inbox.next()
    sent = [accepted("a"), *(delta("a", position) for position in range(500)), finished("a", seq=501)]
    await source.publish(sent[:3])
    await source.publish(sent[3:])
    assert await gateway.take(len(sent)) == sent


async def test_a_worker_is_known_by_its_hello_and_its_last_heartbeat(transport: Transport) -> None:
    source, _ = await transport.worker("w", pid=4711)
    await source.heartbeat(heartbeat("w", "x", state="draining"))
    await transport.until(lambda: transport.queue.workers()[0].state == "draining")
    (worker,) = transport.queue.workers()
    assert (worker.worker_id, worker.pid, worker.card.name, worker.running) == ("w", 4711, "tiny", 1)


async def test_no_worker_gets_more_than_it_claimed(transport: Transport, gateway: Inbox) -> None:
    source, inbox = await transport.worker("w", credits=2)
    for name in "abc":
        await transport.queue.submit(chat_job(name))
    assert [job.job_id for job in await inbox.take(2)] == ["a", "b"]
    await transport.until(lambda: transport.queue.depth("tiny") == 1)
    await source.publish([finished("a")])
    await gateway.next()
    await transport.until(lambda: transport.queue.depth("tiny") == 1)
    await source.claim(1)
    assert (await inbox.next()).job_id == "c"


async def test_jobs_spread_over_workers(transport: Transport) -> None:
    _, first = await transport.worker("w1")
    _, second = await transport.worker("w2")
    await transport.until_looking(2)
    for name in "ab":
        await transport.queue.submit(chat_job(name))
    assert {(await first.next()).job_id, (await second.next()).job_id} == {"a", "b"}


async def test_a_job_cancelled_before_delivery_is_never_delivered(transport: Transport) -> None:
    await transport.queue.submit(chat_job("a"))
    await transport.queue.submit(chat_job("b"))
    await transport.queue.cancel("a")
    _, inbox = await transport.worker("w")
    assert (await inbox.next()).job_id == "b"


async def test_a_job_cancelled_after_delivery_is_cancelled_at_its_worker(transport: Transport) -> None:
    _, inbox = await transport.worker("w")
    await transport.queue.submit(chat_job("a"))
    await inbox.next()
    await transport.queue.cancel("a")
    await transport.queue.cancel("unknown")
    assert await inbox.next() == Cancel(job_id="a")


async def test_a_full_queue_refuses_with_a_time_to_come_back(transport: Transport) -> None:
    for name in "abc":
        await transport.queue.submit(chat_job(name))
    with pytest.raises(Overloaded) as refused:
        await transport.queue.submit(chat_job("d"))
    assert refused.value.retry_after_s > 0
    await transport.until(lambda: transport.queue.depth("tiny") == 3)


async def test_a_resumed_job_goes_before_what_waits_even_when_the_queue_is_full(transport: Transport) -> None:
    for name in "abc":
        await transport.queue.submit(chat_job(name))
    await transport.queue.submit(chat_job("resumed", epoch=1), front=True)
    _, inbox = await transport.worker("w")
    assert [job.job_id for job in await inbox.take(4)] == ["resumed", "a", "b", "c"]


async def test_a_silent_workers_jobs_are_lost(transport: Transport, gateway: Inbox) -> None:
    _, inbox = await transport.worker("w")
    await transport.queue.submit(chat_job("a", epoch=2))
    await inbox.next()
    assert await gateway.next() == JobLost("a", 2, "w")
    assert transport.queue.workers() == []


async def test_a_job_that_its_worker_has_taken_is_lost_as_a_taken_one(transport: Transport, gateway: Inbox) -> None:
    """Also when the worker dies before it says anything of the job itself."""
    source, inbox = await transport.worker("w")
    await transport.queue.submit(chat_job("a"))
    await inbox.next()
    await source.close("gone")
    lost = await gateway.next()
    assert isinstance(lost, JobLost) and lost.was_taken


async def test_a_worker_that_says_goodbye_gives_its_jobs_back_at_once(transport: Transport, gateway: Inbox) -> None:
    source, inbox = await transport.worker("w")
    await transport.queue.submit(chat_job("a"))
    await inbox.next()
    await source.close("the device is lost")
    assert await gateway.next() == JobLost("a", 0, "w")


async def test_a_worker_that_drains_hands_back_what_it_has_and_nobody_blames_the_job(
    transport: Transport, gateway: Inbox
) -> None:
    source, inbox = await transport.worker("w")
    await transport.queue.submit(chat_job("a"))
    await inbox.next()
    await source.publish([accepted("a")])
    await source.close()
    assert await gateway.take(2) == [accepted("a"), JobLost("a", 0, "w", was_taken=False)]
    assert transport.queue.workers() == []


async def test_a_worker_without_credit_left_behind_is_not_given_its_own_lost_job(
    transport: Transport, gateway: Inbox
) -> None:
    dying, inbox = await transport.worker("w1", credits=1)
    await transport.queue.submit(chat_job("a"))
    await inbox.next()
    _, other = await transport.worker("w2")
    await dying.close("gone")
    lost = await gateway.next()
    await transport.queue.submit(chat_job("a", epoch=lost.epoch + 1), front=True)
    assert await other.next() == chat_job("a", epoch=1)


async def test_a_worker_that_wakes_up_is_known_again_and_told_to_drop_what_moved(
    transport: Transport, gateway: Inbox
) -> None:
    zombie, inbox = await transport.worker("zombie", credits=2)
    await transport.queue.submit(chat_job("a"))
    await inbox.next()
    assert await gateway.next() == JobLost("a", 0, "zombie")
    await transport.queue.submit(chat_job("a", epoch=1), front=True)

    await zombie.publish([delta("a", 0)])
    assert (await gateway.next()).epoch == 0, "late events pass: the ledger fences them by their epoch"
    await zombie.heartbeat(heartbeat("zombie", "a"))
    assert await inbox.next() == chat_job("a", epoch=1), "it said Hello again and claimed its unused credit"
    await zombie.heartbeat(heartbeat("zombie", "a", "moved"))
    assert await inbox.next() == Cancel(job_id="moved")


async def test_a_gateway_that_comes_back_learns_its_workers_again(transport: Transport) -> None:
    source, inbox = await transport.worker("w", credits=2)
    await transport.queue.submit(chat_job("a"))
    await inbox.next()
    await transport.restart_gateway()
    await transport.queue.submit(chat_job("b"))
    await source.heartbeat(heartbeat("w", "a"))
    wanted = [chat_job("b"), Cancel(job_id="a")]
    received = []
    async with asyncio.timeout(PATIENCE_S):
        while not all(message in received for message in wanted):
            received.append(await inbox.next())
            assert received[-1] in wanted, "nobody waits for the first one any more"
            await source.heartbeat(heartbeat("w", "a"))


async def test_a_draining_worker_is_told_when_nothing_more_is_on_its_way(transport: Transport) -> None:
    source, inbox = await transport.worker("w")
    await source.heartbeat(heartbeat("w", state="draining"))
    assert await inbox.next() == Drain()
    await transport.queue.submit(chat_job("a"))
    await transport.until(lambda: transport.queue.depth("tiny") == 1)


async def test_both_streams_end_when_they_are_closed(transport: Transport) -> None:
    source, inbox = await transport.worker("w")
    received = Inbox(transport.queue.messages())
    await source.close()
    with pytest.raises(StopAsyncIteration):
        await inbox.next()
    await transport.queue.close()
    with pytest.raises(StopAsyncIteration):
        await received.next()


TALK = "a conversation " * 50
"""Long enough that its beginning is worth finding again."""


async def two_workers_and_the_first_has_the_talk(
    transport: Transport,
) -> tuple[JobSource, Inbox, JobSource, Inbox]:
    first, inbox = await transport.worker("w1", credits=2)
    other, other_inbox = await transport.worker("w2", credits=0)
    await transport.queue.submit(chat_job("turn0", text=TALK))
    await inbox.next()
    await first.publish([finished("turn0")])
    await other.claim(8)
    await transport.until_looking(2)
    return first, inbox, other, other_inbox


async def test_a_conversations_turns_go_to_the_worker_that_has_it(transport: Transport, gateway: Inbox) -> None:
    first, inbox, _, _ = await two_workers_and_the_first_has_the_talk(transport)
    await gateway.next()
    for turn in range(1, 6):
        await transport.queue.submit(chat_job(f"turn{turn}", text=TALK))
        assert (await inbox.next()).job_id == f"turn{turn}"
        # In this order, or the next turn could be there before the credit for it is.
        await first.claim(1)
        await first.publish([finished(f"turn{turn}")])
        await gateway.next()
    assert transport.queue.affinity() == AffinityCounts(hits=5, misses=0)


async def test_a_conversation_goes_on_elsewhere_when_the_worker_that_has_it_is_lost(
    transport: Transport, gateway: Inbox
) -> None:
    _, _, other, inbox = await two_workers_and_the_first_has_the_talk(transport)
    await gateway.next()
    beating = asyncio.create_task(beat_on(other, "w2"))
    await transport.queue.submit(chat_job("turn1", text=TALK))
    lost = await gateway.next()
    assert (lost.job_id, lost.worker_id) == ("turn1", "w1")
    await transport.queue.submit(chat_job("turn1", text=TALK, epoch=1), front=True)
    assert await inbox.next() == chat_job("turn1", text=TALK, epoch=1)
    beating.cancel()


async def beat_on(source: JobSource, worker_id: str) -> None:
    """Be alive, until cancelled."""
    while True:
        await source.heartbeat(heartbeat(worker_id))
        await asyncio.sleep(LOCAL_LEASE_S / 8)


def suspected(job_id: str) -> ChatJob:
    """A job that a lost worker had begun."""
    return chat_job(job_id, epoch=1, trial_tokens=2)


async def test_a_worker_tries_one_suspected_job_at_a_time_and_goes_on_with_others(
    transport: Transport, gateway: Inbox
) -> None:
    source, inbox = await transport.worker("w", credits=8)
    await transport.queue.submit(suspected("a"), front=True)
    assert await inbox.next() == suspected("a")
    await transport.queue.submit(suspected("b"), front=True)
    await transport.queue.submit(chat_job("new"))
    assert await inbox.next() == chat_job("new")
    await source.publish([accepted("a", epoch=1), delta("a", 0, epoch=1)])
    await transport.queue.submit(chat_job("newer"))
    assert await inbox.next() == chat_job("newer")
    await source.publish([delta("a", 1, epoch=1)])
    assert await inbox.next() == suspected("b")


async def test_another_worker_tries_the_next_suspected_job(transport: Transport) -> None:
    _, first = await transport.worker("w1", credits=8)
    await transport.queue.submit(suspected("a"), front=True)
    assert await first.next() == suspected("a")
    _, other = await transport.worker("w2", credits=8)
    await transport.queue.submit(suspected("b"), front=True)
    assert await other.next() == suspected("b")


@pytest.mark.parametrize("end", ["finished", "cancelled"])
async def test_a_trial_is_over_when_its_job_ends(transport: Transport, gateway: Inbox, end: str) -> None:
    source, inbox = await transport.worker("w", credits=8)
    for name in "ab":
        await transport.queue.submit(suspected(name), front=True)
    assert await inbox.next() == suspected("a")
    if end == "finished":
        await source.publish([finished("a", epoch=1)])
    else:
        await transport.queue.cancel("a")
        assert await inbox.next() == Cancel(job_id="a")
    assert await inbox.next() == suspected("b")


async def test_only_the_job_on_trial_is_blamed_for_its_workers_end(transport: Transport, gateway: Inbox) -> None:
    source, inbox = await transport.worker("w", credits=8)
    await transport.queue.submit(chat_job("beside"))
    await inbox.next()
    for name in "ab":
        await transport.queue.submit(suspected(name), front=True)
    assert await inbox.next() == suspected("a")
    told = [accepted("a", epoch=1), delta("a", 0, epoch=1), delta("a", 1, epoch=1)]
    await source.publish(told)
    assert await inbox.next() == suspected("b")
    await source.close("the device is lost")
    assert await gateway.take(3) == told
    lost = {message.job_id: (message.was_taken, message.was_on_trial) for message in await gateway.take(3)}
    assert lost == {"beside": (False, False), "a": (False, False), "b": (True, True)}


async def test_what_a_process_said_before_its_end_is_read_before_its_jobs_are_reported(
    transport: Transport, gateway: Inbox
) -> None:
    source, inbox = await transport.worker("w", credits=8, pid=4711)
    for name in "ab":
        await transport.queue.submit(suspected(name), front=True)
    assert await inbox.next() == suspected("a")
    told = [accepted("a", epoch=1), *(delta("a", position, epoch=1) for position in range(2))]
    await source.publish(told)
    assert await inbox.next() == suspected("b")
    transport.queue.worker_died(4711)
    assert await gateway.take(3) == told
    lost = {message.job_id: (message.was_taken, message.was_on_trial) for message in await gateway.take(2)}
    assert lost == {"a": (False, False), "b": (True, True)}
