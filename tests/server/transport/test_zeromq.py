"""What is particular to the gateway's socket: hostile frames, process handles, the folder."""

import asyncio
import contextlib
import pickle
import random
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from schemas.control import Claim, Taken
from schemas.wire import VERSION, ToGateway, encode_batch
from server.transport import zeromq
from server.transport.base import JobLost
from server.transport.zeromq import ZeroMQQueue
from tests.fakes.messages import chat_job, delta, finished, hello


class Peer:
    """A raw socket that can send anything under any name."""

    def __init__(self, path: Path, identity: bytes) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.ROUTING_ID, identity)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"ipc://{path}")

    async def send(self, *frames: bytes) -> None:
        await self._socket.send_multipart(list(frames))

    async def say(self, *messages: ToGateway) -> None:
        await self.send(*encode_batch(messages))

    async def receive(self) -> list[bytes]:
        return await asyncio.wait_for(self._socket.recv_multipart(), 5)

    def close(self, linger_ms: int = 0) -> None:
        self._socket.close(linger_ms)
        self._context.term()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gl") as path:
        yield Path(path)


@pytest.fixture
async def queue(folder: Path) -> AsyncIterator[ZeroMQQueue]:
    queue = ZeroMQQueue(folder / "q" / "socket", max_queue=8, lease_s=3600 * 4)
    await queue.start()
    yield queue
    await queue.close()


@pytest.fixture
async def peer(queue: ZeroMQQueue, folder: Path) -> AsyncIterator[Peer]:
    peer = Peer(folder / "q" / "socket", b"w")
    yield peer
    peer.close()


def has_come(queue: ZeroMQQueue) -> bool:
    """Wait, without a turn of the loop, until there is something to receive."""
    assert queue._socket is not None
    return bool(zmq.Socket.shadow(queue._socket).poll(5000))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def join(peer: Peer, queue: ZeroMQQueue, credits: int = 2) -> None:
    await peer.say(hello("w", pid=99), Claim(worker_id="w", credits=credits))
    await until(lambda: len(queue.workers()) == 1)


class _Bomb:
    def __reduce__(self) -> tuple:
        return (pytest.fail, ("a pickle was loaded",))


async def test_frames_that_are_no_messages_are_dropped_and_counted(queue: ZeroMQQueue, peer: Peer) -> None:
    rng = random.Random(7)
    (good,) = encode_batch([finished("a"), delta("a", 1)])
    frames = [rng.randbytes(rng.randrange(1, 200)) for _ in range(500)]
    frames += [
        pickle.dumps(_Bomb()),
        bytes((VERSION,)) + pickle.dumps(_Bomb()),
        bytes((VERSION,)) + b"\xdd\xff\xff\xff\xff",
        bytes((VERSION,)) + b"\xc6\x7f\xff\xff\xff",
    ]
    frames += [good[:size] for size in range(len(good))]
    frames += [bytes((good[0] ^ 1,)) + good[1:], bytes((VERSION,)) + b"\x91" * 100_000]
    for frame in frames:
        await peer.send(frame)
    await join(peer, queue)
    assert queue.dropped_frames == len(frames)
    await queue.submit(chat_job("still works"))
    assert len(await peer.receive()) == 1


async def test_bytes_that_are_not_even_zeromq_do_no_harm(queue: ZeroMQQueue, peer: Peer, folder: Path) -> None:
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096, random.Random(1).randbytes(1 << 16)):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(folder / "q" / "socket"))
            raw.sendall(garbage)
    await join(peer, queue)
    assert len(queue.workers()) == 1


async def test_a_message_over_the_limit_costs_only_its_sender_the_connection(
    queue: ZeroMQQueue, peer: Peer, folder: Path
) -> None:
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + b"\x00" + bytes(31)
    body = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"
    header_of_2_gib = b"\x02" + (2**31).to_bytes(8, "big")
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(5)
        raw.connect(str(folder / "q" / "socket"))
        raw.sendall(greeting)
        assert raw.recv(64).startswith(b"\xff")
        raw.sendall(b"\x04" + bytes((len(body),)) + body)
        while b"ROUTER" not in raw.recv(4096):
            pass
        raw.sendall(header_of_2_gib)
        with contextlib.suppress(ConnectionResetError):
            assert raw.recv(4096) == b"", "the gateway hangs up"
    await join(peer, queue)
    assert len(queue.workers()) == 1


async def test_a_worker_cannot_speak_in_anothers_name(queue: ZeroMQQueue, peer: Peer, folder: Path) -> None:
    impostor = Peer(folder / "q" / "socket", b"impostor")
    await impostor.say(hello("w"))
    await until(lambda: queue.dropped_frames == 1)
    assert queue.workers() == []
    impostor.close()


async def test_an_unknown_worker_is_asked_to_say_hello(queue: ZeroMQQueue, peer: Peer) -> None:
    await peer.say(Claim(worker_id="w", credits=1))
    assert await peer.receive() == [b""]


async def test_a_dead_process_loses_its_jobs_at_once(queue: ZeroMQQueue, peer: Peer) -> None:
    await join(peer, queue)
    await queue.submit(chat_job("a", epoch=1))
    queue.worker_died(98)
    assert len(queue.workers()) == 1
    queue.worker_died(99)
    assert await anext(queue.messages()) == JobLost("a", 1, "w", was_taken=False)
    assert queue.workers() == []


async def test_what_a_process_said_before_its_death_still_counts(queue: ZeroMQQueue, peer: Peer) -> None:
    await join(peer, queue)
    await queue.submit(chat_job("a"))
    await peer.receive()
    await peer.say(Taken(worker_id="w", job_id="a", epoch=0))
    # Until it has come in; without a turn of the loop, so that the gateway cannot have read it by itself.
    assert has_come(queue)
    queue.worker_died(99)
    assert await anext(queue.messages()) == JobLost("a", 0, "w")


async def test_last_words_that_come_behind_the_news_of_a_death_are_heard(queue: ZeroMQQueue, peer: Peer) -> None:
    await join(peer, queue)
    await queue.submit(chat_job("a", epoch=1, trial_tokens=2))
    await peer.receive()
    queue.worker_died(99)
    await peer.say(Taken(worker_id="w", job_id="a", epoch=1))
    peer.close(linger_ms=5000)
    assert await anext(queue.messages()) == JobLost("a", 1, "w", was_on_trial=True)


async def test_a_worker_that_hung_up_is_noticed_when_a_job_cannot_reach_it(queue: ZeroMQQueue, peer: Peer) -> None:
    await join(peer, queue, credits=1000)
    await queue.submit(chat_job("held"))
    peer.close()
    async with asyncio.timeout(2):
        while queue.workers():
            await queue.submit(chat_job("next"))
            await asyncio.sleep(0.01)
    assert await anext(queue.messages()) == JobLost("held", 0, "w", was_taken=False)
    assert queue.depth("tiny") == 1, "the one that never got there waits for another worker, as it is"


@pytest.fixture
def without_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing looks at the socket unless it says that something has come."""
    monkeypatch.setattr(zeromq, "TICK_S", 3600.0)


async def test_what_came_unnoticed_while_a_job_was_sent_is_found(
    without_ticks: None, queue: ZeroMQQueue, peer: Peer
) -> None:
    await join(peer, queue)
    await peer.say(finished("early"))
    # Looking takes the socket's sign away, as sending may.
    assert has_come(queue)
    await queue.submit(chat_job("a"))
    assert await asyncio.wait_for(anext(queue.messages()), 5) == finished("early")


async def test_more_than_a_turn_takes_comes_whole_and_in_order(
    without_ticks: None, queue: ZeroMQQueue, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zeromq, "MESSAGES_PER_TURN", 8)
    await join(peer, queue)
    events = [delta("a", number) for number in range(100)]
    for first in range(0, 100, 5):
        await peer.say(*events[first : first + 5])
    async with asyncio.timeout(5):
        messages = queue.messages()
        assert [await anext(messages) for _ in events] == events


async def test_what_waits_is_still_told_after_the_queue_was_closed(queue: ZeroMQQueue, peer: Peer) -> None:
    await join(peer, queue)
    await queue.submit(chat_job("a"))
    queue.worker_died(99)
    await until(lambda: not queue.workers())
    await queue.close()
    assert [message async for message in queue.messages()] == [JobLost("a", 0, "w", was_taken=False)]


async def test_a_folder_that_others_can_enter_is_refused(folder: Path) -> None:
    open_folder = folder / "open"
    open_folder.mkdir(mode=0o755)
    with pytest.raises(PermissionError, match="0700"):
        await ZeroMQQueue(open_folder / "socket", max_queue=1).start()


async def test_a_path_that_is_too_long_is_refused_with_its_name(folder: Path) -> None:
    with pytest.raises(ValueError, match="longer than 107 bytes"):
        await ZeroMQQueue(folder / ("x" * 120) / "socket", max_queue=1).start()
