"""A body's pieces: when a client that does not read is given up, and when not."""

import asyncio
from collections.abc import Callable

import pytest
from starlette.types import Message

from server.body_writer import BodyWriter
from tests.fakes.loop_clock import hold_clock, turns

STALL_S = 30.0


@pytest.fixture
async def advance(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    return hold_clock(monkeypatch)


class Client:
    """Takes a piece whenever it is let."""

    def __init__(self) -> None:
        self.taken: list[Message] = []
        self._reads = asyncio.Event()

    async def send(self, message: Message) -> None:
        await self._reads.wait()
        self._reads.clear()
        self.taken.append(message)

    def read(self) -> None:
        self._reads.set()


async def write_all(client: Client, *pieces: bytes) -> None:
    async with BodyWriter(client.send, STALL_S) as body:
        for piece in pieces:
            await body.write(piece)
        await body.write(b"end", is_last=True)


async def test_pieces_are_sent_in_order_and_empty_ones_are_not() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async with BodyWriter(send, STALL_S) as body:
        await body.write(b"a")
        await body.write(b"")
        await body.write(b"b", is_last=True)
    assert sent == [
        {"type": "http.response.body", "body": b"a", "more_body": True},
        {"type": "http.response.body", "body": b"b", "more_body": False},
    ]


async def test_a_piece_that_is_not_taken_in_time_ends_it(advance: Callable[[float], None]) -> None:
    client = Client()
    writing = asyncio.create_task(write_all(client, b"a"))
    await turns()
    advance(STALL_S - 1)
    await turns()
    assert not writing.done()
    advance(1)
    await turns()
    with pytest.raises(TimeoutError):
        writing.result()
    assert client.taken == []


async def test_the_time_begins_anew_with_each_piece(advance: Callable[[float], None]) -> None:
    client = Client()
    writing = asyncio.create_task(write_all(client, b"a", b"b", b"c"))
    for _ in range(4):
        await turns()
        advance(STALL_S - 1)
        await turns()
        client.read()
    await turns()
    assert writing.done() and writing.exception() is None
    assert [message["body"] for message in client.taken] == [b"a", b"b", b"c", b"end"]


async def test_time_in_which_there_is_nothing_to_send_does_not_count(advance: Callable[[float], None]) -> None:
    client, go_on = Client(), asyncio.Event()

    async def write() -> None:
        async with BodyWriter(client.send, STALL_S) as body:
            await go_on.wait()
            await body.write(b"late")

    writing = asyncio.create_task(write())
    for _ in range(3):
        await turns()
        advance(STALL_S - 1)
    await turns()
    go_on.set()
    await turns()
    advance(STALL_S - 1)
    await turns()
    assert not writing.done()
    client.read()
    await writing


async def test_a_cancellation_from_outside_stays_one(advance: Callable[[float], None]) -> None:
    writing = asyncio.create_task(write_all(Client(), b"a"))
    await turns()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing


async def test_an_error_of_the_connection_passes(advance: Callable[[float], None]) -> None:
    async def broken(_: Message) -> None:
        raise OSError("broken pipe")

    with pytest.raises(OSError, match="broken pipe"):
        async with BodyWriter(broken, STALL_S) as body:
            await body.write(b"a")
    advance(10 * STALL_S)
    await turns()
