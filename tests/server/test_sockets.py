"""Clients that do not behave, over real sockets."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest

from schemas.events import Event
from schemas.jobs import ChatJob
from server.app import GatewayLimits
from server.streaming import Patience
from tests.fakes.memory_queue import MemoryQueue, Teller, tell
from tests.server.serving import CHAT, ask, listening


@asynccontextmanager
async def connected(address: tuple[str, int]) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def post(body: bytes, *headers: str) -> bytes:
    lines = [f"POST {CHAT} HTTP/1.1", "Host: gateway", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def whole(body: dict[str, object]) -> bytes:
    data = json.dumps(body).encode()
    return post(data, f"Content-Length: {len(data)}")


async def hang(job: ChatJob) -> AsyncGenerator[Event, None]:
    teller = Teller(job)
    yield teller.accepted()
    yield teller.words("a cat sat")[0]
    await asyncio.Event().wait()


async def never_answer(job: ChatJob) -> AsyncGenerator[Event, None]:
    await asyncio.Event().wait()
    yield Teller(job).accepted()


async def test_a_connection_closed_in_mid_stream_cancels_the_job() -> None:
    queue = MemoryQueue(hang)
    async with listening(queue) as address, connected(address) as (reader, writer):
        writer.write(whole(ask(stream=True)))
        await reader.readuntil(b'"content":"a "')
        writer.transport.abort()
        await queue.was_cancelled.wait()
    assert queue.cancelled == [queue.submitted[0].job_id]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_closed_while_the_job_waits_cancels_it(stream: bool) -> None:
    queue = MemoryQueue(never_answer)
    async with listening(queue) as address, connected(address) as (_, writer):
        writer.write(whole(ask(stream=stream)))
        while not queue.submitted:
            await asyncio.sleep(0)
        writer.close()
        await queue.was_cancelled.wait()
    assert queue.cancelled == [queue.submitted[0].job_id]


async def test_a_connection_closed_in_mid_body_makes_no_job() -> None:
    queue = MemoryQueue(tell("x"))
    async with listening(queue) as address:
        async with connected(address) as (_, writer):
            writer.write(post(b'{"model"', "Content-Length: 100"))
            await writer.drain()
        async with connected(address) as (reader, writer):
            writer.write(whole(ask()))
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    assert len(queue.submitted) == 1


async def test_a_body_that_is_declared_too_large_is_refused_and_the_connection_closed() -> None:
    async with listening(MemoryQueue(tell("x"))) as address, connected(address) as (reader, writer):
        writer.write(post(b"{", f"Content-Length: {200 * 1024 * 1024}"))
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"request_too_large" in answer


async def test_a_chunked_body_is_refused_when_it_grows_too_large() -> None:
    limits = GatewayLimits(max_body_bytes=4096)
    async with listening(MemoryQueue(tell("x")), limits=limits) as address, connected(address) as (reader, writer):
        writer.write(post(b"", "Transfer-Encoding: chunked"))
        writer.write(b"800\r\n" + b" " * 0x800 + b"\r\n")
        writer.write(b"801\r\n" + b" " * 0x801 + b"\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 413")


async def test_a_reader_that_stops_reading_is_dropped() -> None:
    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        yield teller.accepted()
        words = ["x" * 100_000] * 1000
        for place in range(len(words)):
            yield teller.word(words, place)
            await asyncio.sleep(0)

    queue = MemoryQueue(script)
    limits = GatewayLimits(patience=Patience(stall_s=0.05))
    async with listening(queue, limits=limits) as address, connected(address) as (_, writer):
        writer.write(whole(ask(stream=True)))
        await queue.was_cancelled.wait()
    assert queue.cancelled == [queue.submitted[0].job_id]


async def test_requests_of_one_connection_are_answered_in_order() -> None:
    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        async for event in tell(job.messages[0].parts[0].text)(job):  # type: ignore[union-attr]
            yield event

    queue = MemoryQueue(script)
    async with listening(queue) as address, connected(address) as (reader, writer):
        for number in range(20):
            writer.write(whole(ask(f"number-{number}.")))
        for number in range(20):
            await reader.readuntil(f'"content":"number-{number}."'.encode())
    assert len(queue.submitted) == 20
