"""What is particular to Redis: several gateways and workers, parted networks, a server that dies, keys that end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis import Redis

from schemas import redis_names as names
from schemas.control import Cancel
from schemas.events import Finished
from schemas.jobs import Job
from schemas.wire import VERSION
from server.transport.base import JobLost
from server.transport.redis_mail import send_cancels
from server.transport.redis_streams import RedisQueue
from tests.contract.conftest import PATIENCE_S, Inbox
from tests.contract.hosts import LONG_S, REDIS_LEASE_S, TOKENS, Hosts, answered, hosts_of, until
from tests.fakes.messages import accepted, chat_job, delta, finished, heartbeat, hello
from tests.fakes.proxy import Proxy
from tests.fakes.redis_server import RedisServer
from tests.fakes.scripted_backend import answer
from tests.server.serving import chunks_of
from workers.handlers.base import FatalError
from workers.transport.redis_streams import RedisSource

pytestmark = [pytest.mark.redis, pytest.mark.timeout(60)]


@pytest.fixture
def keys(redis: RedisServer):
    """key -> seconds to live, without those of idle lines."""
    with contextlib.closing(redis.client()) as client:
        yield lambda: _keys(client)


def _keys(client: Redis) -> dict[str, int]:
    found = {key.decode(): client.ttl(key) for key in client.scan_iter()}
    return {key: ttl for key, ttl in found.items() if ttl != -2}


async def test_two_gateways_and_two_workers_answer_every_request_exactly(hosts: Hosts) -> None:
    gateways = [await hosts.gateway() for _ in range(2)]
    workers = [await hosts.worker(name, max_jobs=3) for name in ("w1", "w2")]
    for gateway in gateways:
        await gateway.knows("w1", "w2")
    prompts = [f"prompt {number}" for number in range(6)]
    requests = [(prompt, gateway.ask(prompt)) for gateway in gateways for prompt in prompts]
    for prompt, request in requests:
        assert await answered(request) == answer(prompt, 7, TOKENS)
    await until(lambda: not any(worker.handler.running for worker in workers))


async def test_a_stream_is_exact_when_its_worker_is_parted_and_the_zombies_words_are_void(
    hosts: Hosts, redis: RedisServer
) -> None:
    gateway = await hosts.gateway()
    proxy = await hosts.stack.enter_async_context(Proxy(redis.port))
    zombie = await hosts.worker("zombie", url=proxy.url)
    await gateway.knows("zombie")
    request = gateway.ask("wait for it")
    await until(lambda: zombie.handler.running)
    proxy.cut()
    heir = await hosts.worker("heir")
    await until(lambda: heir.handler.running)
    zombie.handler.gate.set()
    proxy.mend()
    await gateway.knows("zombie", "heir")
    await until(lambda: not zombie.handler.running)
    heir.handler.gate.set()
    assert await answered(request) == answer("wait for it", 7, TOKENS)


async def test_a_lost_gateways_jobs_are_cancelled_within_the_lease_and_no_other(
    hosts: Hosts, redis: RedisServer
) -> None:
    proxy = await hosts.stack.enter_async_context(Proxy(redis.port))
    lost, other = await hosts.gateway(proxy.url), await hosts.gateway()
    worker = await hosts.worker("w")
    await lost.knows("w")
    await other.knows("w")
    orphan, heard = lost.ask("wait for the lost one"), other.ask("wait for the other")
    await until(lambda: len(worker.handler.running) == 2)
    proxy.cut()
    await until(lambda: len(worker.handler.running) == 1, 3 * REDIS_LEASE_S)
    worker.handler.gate.set()
    assert await answered(heard) == answer("wait for the other", 7, TOKENS)
    proxy.mend()
    assert await answered(orphan) == answer("wait for the lost one", 7, TOKENS), "it was only parted, and begins anew"


async def test_a_request_that_ends_two_workers_is_failed_and_the_next_is_served(hosts: Hosts) -> None:
    gateway = await hosts.gateway()
    victims = [await hosts.worker(name) for name in ("w1", "w2")]
    await gateway.knows("w1", "w2")
    response = await asyncio.wait_for(gateway.ask("break it"), LONG_S)
    assert chunks_of(response.text)[-1]["error"]["code"] == "engine_error"
    for victim in victims:
        with pytest.raises(FatalError):
            await asyncio.wait_for(victim.life, LONG_S)
    await hosts.worker("w3")
    await gateway.knows("w3")
    assert await answered(gateway.ask("and on")) == answer("and on", 7, TOKENS)


async def test_every_key_ends_by_itself_and_only_idle_lines_are_left(redis: RedisServer, keys) -> None:
    async with hosts_of(redis) as hosts:
        gateway, worker = await hosts.gateway(), await hosts.worker("w", max_jobs=1)
        await gateway.knows("w")
        requests = [gateway.ask(f"wait {number}") for number in range(3)]
        await until(lambda: worker.handler.running and gateway.queue.depth("demo") == 2)
        assert all(ttl >= 0 for ttl in keys().values()), keys()
        worker.handler.gate.set()
        for request in requests:
            await answered(request)
        await until(lambda: not any(":job:" in key for key in keys()))
    assert set(keys()) <= set(names.lines_of("demo"))
    assert all(0 <= ttl <= 600 for ttl in keys().values())
    with contextlib.closing(redis.client()) as client:
        assert [client.xlen(line) for line in names.lines_of("demo")] == [0] * len(names.LINES)
        assert [client.xpending(line, names.GROUP)["pending"] for line in keys()] == [0] * len(keys())


# Both ends without an application or a ledger, where nothing is to end by itself.

ENDLESS_LEASE_S = 30.0


@pytest.fixture
async def queue(redis: RedisServer) -> AsyncIterator[RedisQueue]:
    queue = RedisQueue(redis.url, max_queue=8, lease_s=ENDLESS_LEASE_S)
    await queue.start()
    yield queue
    await queue.close()


@pytest.fixture
async def source(redis: RedisServer) -> AsyncIterator[RedisSource]:
    source = RedisSource(redis.url, lease_s=ENDLESS_LEASE_S)
    await source.start(hello("w"))
    yield source
    await source.close()


JOB_OF_LINE = {
    names.SUSPECTED: chat_job("a", trial_tokens=1),
    names.RESUMED: chat_job("a", epoch=1),
    names.HIGH: chat_job("a", priority=-1),
    names.NORMAL: chat_job("a"),
    names.LOW: chat_job("a", priority=1),
}


@pytest.mark.parametrize("place", names.LINES)
async def test_a_pointer_whose_reader_died_is_followed_by_another_worker_without_waiting_for_a_lease(
    source: RedisSource, queue: RedisQueue, redis: RedisServer, place: str
) -> None:
    line, job = names.line_of("tiny", place), JOB_OF_LINE[place]
    with contextlib.closing(redis.client()) as client:
        client.xgroup_create(line, names.GROUP, id="0", mkstream=True)
        await queue.submit(job, front=place in (names.SUSPECTED, names.RESUMED))
        assert client.xreadgroup(names.GROUP, names.CONSUMER, {line: ">"}), "read, and never followed"
        await source.claim(1)
        assert await Inbox(source.messages()).next() == job
        assert client.xpending(line, names.GROUP)["pending"] == client.xlen(line) == 0


async def test_what_was_left_behind_goes_before_what_came_later(
    source: RedisSource, queue: RedisQueue, redis: RedisServer
) -> None:
    line = names.line_of("tiny", names.NORMAL)
    with contextlib.closing(redis.client()) as client:
        client.xgroup_create(line, names.GROUP, id="0", mkstream=True)
        await queue.submit(chat_job("a"))
        client.xreadgroup(names.GROUP, names.CONSUMER, {line: ">"})
        [pending] = client.xpending_range(line, names.GROUP, "-", "+", 1)
        client.xclaim(line, names.GROUP, names.CONSUMER, 0, [pending["message_id"]], idle=10_000)
    await queue.submit(chat_job("b"))
    await source.claim(2)
    assert [job.job_id for job in await Inbox(source.messages()).take(2)] == ["a", "b"]


async def test_of_two_workers_that_a_redis_behind_its_time_gave_one_attempt_the_first_is_heard(
    source: RedisSource, queue: RedisQueue, redis: RedisServer
) -> None:
    key, line = names.job_key("tiny", "a", 0), names.line_of("tiny", names.NORMAL)
    inbox, received = Inbox(source.messages()), Inbox(queue.messages())
    with contextlib.closing(redis.client()) as client:
        await queue.submit(chat_job("a"))
        data, [(_, pointer)] = client.get(key), client.xrange(line)
        await source.claim(1)
        assert await inbox.next() == chat_job("a")
        await until(lambda: queue.depth("tiny") == 0)
        client.set(key, data)
        client.xadd(line, pointer)
    other = RedisSource(redis.url, lease_s=ENDLESS_LEASE_S)
    await other.start(hello("other"))
    await other.claim(1)
    its_inbox = Inbox(other.messages())
    assert await its_inbox.next() == chat_job("a")
    await other.publish([accepted("a"), delta("a", 0)])
    assert await its_inbox.next() == Cancel(job_id="a")
    await other.close()
    await source.publish([accepted("a"), finished("a", seq=1)])
    assert await received.take(2) == [accepted("a"), finished("a", seq=1)]


async def test_a_job_whose_pointer_is_there_twice_is_taken_once(
    queue: RedisQueue, source: RedisSource, redis: RedisServer
) -> None:
    await queue.submit(chat_job("a"))
    line = names.line_of("tiny", names.NORMAL)
    with contextlib.closing(redis.client()) as client:
        [(_, pointer)] = client.xrange(line)
        client.xadd(line, pointer)
    await queue.submit(chat_job("b"))
    await source.claim(3)
    inbox = Inbox(source.messages())
    assert await inbox.take(2) == [chat_job("a"), chat_job("b")]
    await until(lambda: queue.depth("tiny") == 0)


@pytest.mark.parametrize("leaves", [False, True], ids=["takes nothing", "leaves"])
async def test_a_job_that_is_offered_in_vain_to_the_worker_that_has_its_beginning_goes_to_another(
    redis: RedisServer, leaves: bool
) -> None:
    talk = "a conversation " * 50
    async with AsyncExitStack() as stack:
        queue = RedisQueue(redis.url, max_queue=8, lease_s=ENDLESS_LEASE_S, affinity_margin=0.25)
        sources = [RedisSource(redis.url, lease_s=ENDLESS_LEASE_S) for _ in range(2)]
        await queue.start()
        stack.push_async_callback(queue.close)
        for number, source in enumerate(sources):
            await source.start(hello(f"w{number}"))
            stack.push_async_callback(source.close)
        await until(lambda: len(queue.workers()) == 2)
        first, other = sources
        await first.claim(1)
        await queue.submit(chat_job("turn0", text=talk))
        await Inbox(first.messages()).next()
        await first.publish([finished("turn0")])
        await Inbox(queue.messages()).next()

        await queue.submit(chat_job("turn1", text=talk))
        own_line = names.own_line("tiny", "w0")
        with contextlib.closing(redis.client()) as client:
            assert client.xlen(own_line) == 1
            if leaves:
                await first.close()
            await other.claim(1)
            assert await Inbox(other.messages()).next() == chat_job("turn1", text=talk)
            assert client.xlen(own_line) == 0
        await until(lambda: queue.affinity().misses == 1)


async def test_a_job_that_redis_lost_is_reported_without_blame(queue: RedisQueue, redis: RedisServer) -> None:
    await queue.submit(chat_job("a", epoch=3))
    with contextlib.closing(redis.client()) as client:
        client.delete(names.job_key("tiny", "a", 3))
    assert await Inbox(queue.messages()).next() == JobLost("a", 3, "", was_taken=False)


async def test_a_cancel_for_an_earlier_attempt_does_not_touch_the_present_one(
    queue: RedisQueue, source: RedisSource
) -> None:
    await source.claim(2)
    await queue.submit(chat_job("a", epoch=1))
    inbox, received = Inbox(source.messages()), Inbox(queue.messages())
    assert await inbox.next() == chat_job("a", epoch=1)
    await send_cancels(queue._client, [("w", "a", 0)])
    await queue.submit(chat_job("b"))
    assert await inbox.next() == chat_job("b")
    await source.heartbeat(heartbeat("w", "a", "b"))
    await source.publish([finished("a", epoch=1)])
    assert await received.next() == finished("a", epoch=1)


async def test_entries_that_are_no_messages_are_dropped_and_counted(
    queue: RedisQueue, source: RedisSource, redis: RedisServer
) -> None:
    await until(lambda: bool(queue.workers()))
    received = Inbox(queue.messages())
    with contextlib.closing(redis.client()) as client:
        [mailbox] = client.keys("glimpsed:gateway:*")
        for hostile in _hostile():
            client.xadd(mailbox, hostile)
            client.xadd(names.worker_mailbox("w"), hostile | {"order": bytes((VERSION,)) + b"\xff"})
            client.xadd(names.line_of("tiny", names.NORMAL), hostile)
    await source.claim(1)
    await queue.submit(chat_job("a"))
    job: Job = await Inbox(source.messages()).next()
    assert job == chat_job("a")
    await source.publish([delta("a", 0), finished("a", seq=2)])
    assert isinstance((await received.take(2))[1], Finished)
    await until(lambda: queue.dropped_frames == len(_hostile()) == source.dropped_frames, PATIENCE_S)


def _hostile() -> list[dict[str, Any]]:
    return [
        {"worker": b"\xff", "0": b"x"},
        {"worker": "w", "0": b""},
        {"worker": "w", "0": bytes((VERSION,)) + b"\xdf\xff\xff\xff\xff"},
        {"worker": "w", "hello": b"\x80\x04K\x01."},
        {"worker": "other", "0": b"\x02abc"},
    ]
