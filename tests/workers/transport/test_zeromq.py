"""What is particular to the worker's socket: frames from a gateway that are none, a gateway that is not there."""

import asyncio
import pickle
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from schemas.control import Claim, Taken
from schemas.data_url import Buffer
from schemas.wire import VERSION, decode_batch, encode, encode_frames
from tests.fakes.messages import chat_job, hello
from tests.schemas.test_wire import WITH_TEXTS
from workers.transport.zeromq import ZeroMQSource


class Gateway:
    """A raw ROUTER that can send anything."""

    def __init__(self, address: str) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(address)

    async def receive(self) -> list:
        _, *frames = await asyncio.wait_for(self._socket.recv_multipart(), 5)
        return [message for frame in frames for message in decode_batch(frame)]

    async def send(self, *messages: bytes) -> None:
        for message in messages:
            await self.send_frames(message)

    async def send_frames(self, *frames: Buffer) -> None:
        await self._socket.send_multipart([b"w", *frames])

    def close(self) -> None:
        self._socket.close()
        self._context.term()


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Gateway, ZeroMQSource]]:
    with tempfile.TemporaryDirectory(prefix="gl") as folder:
        address = f"ipc://{Path(folder) / 'q'}"
        gateway, source = Gateway(address), ZeroMQSource(address)
        await source.start(hello("w"))
        yield gateway, source
        await source.close()
        gateway.close()


async def test_frames_that_are_no_messages_are_dropped_and_counted(pair: tuple[Gateway, ZeroMQSource]) -> None:
    gateway, source = pair
    await gateway.receive()
    await gateway.send(
        b"\x00", b"garbage", pickle.dumps(chat_job), bytes((VERSION,)) + b"\xdd\xff\xff\xff\xff", encode(hello("w"))
    )
    await gateway.send_frames(encode_frames(WITH_TEXTS)[0])
    await gateway.send_frames(*encode_frames(WITH_TEXTS)[:-1])
    await gateway.send_frames(b"", *encode_frames(WITH_TEXTS))
    await gateway.send(encode(chat_job("a")))
    assert await asyncio.wait_for(anext(source.messages()), 5) == chat_job("a")
    assert source.dropped_frames == 8


async def test_a_worker_that_is_asked_says_hello_and_claims_only_what_it_did_not_use(
    pair: tuple[Gateway, ZeroMQSource],
) -> None:
    gateway, source = pair
    assert await gateway.receive() == [hello("w"), Claim(worker_id="w", credits=0)]
    await source.claim(3)
    assert await gateway.receive() == [Claim(worker_id="w", credits=3)]
    await gateway.send(encode(chat_job("a")), encode(chat_job("b")))
    messages = source.messages()
    for name in "ab":
        await anext(messages)
        assert await gateway.receive() == [Taken(worker_id="w", job_id=name, epoch=0)]
    await gateway.send(b"")
    asking = asyncio.create_task(anext(messages))
    assert await gateway.receive() == [hello("w"), Claim(worker_id="w", credits=1)]
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def test_the_gateway_is_told_of_a_job_before_the_worker_sees_it(pair: tuple[Gateway, ZeroMQSource]) -> None:
    gateway, source = pair
    await gateway.receive()
    await gateway.send(encode(chat_job("a", epoch=3)))
    messages = source.messages()
    first = asyncio.create_task(anext(messages))
    assert await gateway.receive() == [Taken(worker_id="w", job_id="a", epoch=3)]
    assert await first == chat_job("a", epoch=3)


async def test_closing_without_a_gateway_takes_no_longer_than_the_linger() -> None:
    with tempfile.TemporaryDirectory(prefix="gl") as folder:
        source = ZeroMQSource(f"ipc://{folder}/nobody")
        await source.start(hello("w"))
        await source.claim(1)
        await asyncio.wait_for(source.close(), 5)
        assert [message async for message in source.messages()] == []
