"""What our HTTP protocol does as time goes by: a clock that tests move, and a transport that only notes."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from server.http_crowd import Crowd
from server.http_protocol import HttpPatience, HttpProtocol
from server.serving import KEEP_ALIVE_S, http_config

GET = b"GET / HTTP/1.1\r\nHost: gateway\r\n"
PATIENCE = HttpPatience(head_s=10.0, stall_s=30.0, linger_s=5.0)


class Timer:
    def __init__(self, at_s: float, call: Callable[[], None]) -> None:
        self.at_s = at_s
        self.call = call
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class TimedLoop:
    """The part of an event loop that the protocol asks for; time passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._timers: list[Timer] = []

    def call_later(self, delay_s: float, call: Callable[..., None], *arguments: Any) -> Timer:
        timer = Timer(self.now_s + delay_s, lambda: call(*arguments))
        self._timers.append(timer)
        return timer

    def create_task(self, work: Any) -> "asyncio.Task[None]":
        return asyncio.get_running_loop().create_task(work)

    def advance(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while due := [timer for timer in self._timers if not timer.is_cancelled and timer.at_s <= end_s]:
            first = min(due, key=lambda timer: timer.at_s)
            self._timers.remove(first)
            self.now_s = first.at_s
            first.call()
        self.now_s = end_s


class NotingTransport(asyncio.Transport):
    """What was written, and how the connection was ended: "closed", "eof" (one way) or "aborted"."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.num_unread = 0
        self.ends: list[str] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.num_unread

    def is_closing(self) -> bool:
        return "closed" in self.ends or "aborted" in self.ends

    def close(self) -> None:
        self.ends.append("closed")

    def abort(self) -> None:
        self.ends.append("aborted")

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ends.append("eof")

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default


class Connection:
    """One connection to an application that answers "ok" when it is let, without reading any body."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.loop = TimedLoop()
        self.transport = NotingTransport()
        self.crowd = Crowd(10, 10)
        config = http_config(cast(Any, self), self.crowd, PATIENCE)
        config.load()
        self.protocol = HttpProtocol(
            config, ServerState(), {}, cast(asyncio.AbstractEventLoop, self.loop), crowd=self.crowd, patience=PATIENCE
        )
        self.protocol.connection_made(self.transport)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    def send(self, data: bytes) -> None:
        self.protocol.data_received(data)

    async def answered(self, count: int = 1) -> None:
        for _ in range(100):
            if self.transport.written.count(b"\r\n\r\nok") == count:
                return
            await asyncio.sleep(0)
        raise AssertionError(self.transport.written)


async def test_a_connection_on_which_nothing_comes_is_closed_without_a_word() -> None:
    for data in (b"", b"\r\n"):
        one = Connection()
        if data:
            one.send(data)
        one.loop.advance(9.9)
        assert one.transport.ends == []
        one.loop.advance(0.1)
        assert (one.transport.ends, one.transport.written) == (["closed"], b"")


@pytest.mark.parametrize("head", [b"G", b"GET / HTTP/1.1\r\n", GET, GET + b"x: "])
async def test_a_head_that_does_not_end_is_408(head: bytes) -> None:
    one = Connection()
    one.send(head)
    one.loop.advance(10)
    assert one.transport.written.startswith(b"HTTP/1.1 408 ") and b"request_timeout" in one.transport.written
    assert one.transport.ends == ["eof"], "what the client still sends must not reset the connection"
    one.send(b"x: y\r\n")
    one.loop.advance(5)
    assert one.transport.ends == ["eof", "aborted"]


async def test_a_head_that_trickles_gets_no_more_time() -> None:
    one = Connection()
    one.send(GET)
    for _ in range(9):
        one.loop.advance(1)
        one.send(b"x: y\r\n")
        assert one.transport.written == b""
    one.loop.advance(1)
    assert one.transport.written.startswith(b"HTTP/1.1 408 ")


async def test_between_requests_the_keep_alives_time_counts_and_for_the_next_head_its_own() -> None:
    one, two = Connection(), Connection()
    for connection in (one, two):
        connection.send(GET + b"\r\n")
        await connection.answered()
        connection.loop.advance(KEEP_ALIVE_S - 1)
        assert connection.transport.ends == []
    one.loop.advance(1)
    assert one.transport.ends == ["closed"]
    two.send(b"G")
    two.loop.advance(9)
    two.send(b"ET / HTTP/1.1\r\n")
    assert two.transport.ends == []
    two.loop.advance(1)
    assert b"HTTP/1.1 408 " in two.transport.written


async def test_a_head_sent_ahead_may_be_late_while_the_answer_before_it_runs() -> None:
    one = Connection()
    one.may_answer.clear()
    one.send(GET + b"\r\n" + b"GET / HT")
    one.loop.advance(100)
    assert one.transport.ends == [] and one.transport.written == b""
    one.may_answer.set()
    await one.answered()
    one.loop.advance(10)
    assert one.transport.written.count(b"HTTP/1.1 200 ") == 1
    assert one.transport.written.count(b"HTTP/1.1 408 ") == 1


async def test_an_answer_may_take_as_long_as_it_likes() -> None:
    one = Connection()
    one.may_answer.clear()
    one.send(GET + b"\r\n")
    one.loop.advance(10_000)
    assert one.transport.ends == []


async def test_a_body_that_nobody_wants_is_taken_for_a_while() -> None:
    one = Connection()
    one.send(GET + b"Content-Length: 1000000\r\n\r\n")
    await one.answered()
    for _ in range(4):
        one.loop.advance(1)
        one.send(b"x" * 1000)
    assert one.transport.ends == []
    one.loop.advance(1)
    assert one.transport.ends == ["eof"]
    one.loop.advance(5)
    assert one.transport.ends == ["eof", "aborted"]


async def test_a_body_sent_ahead_is_not_taken_for_one_that_nobody_wants() -> None:
    one = Connection()
    one.may_answer.clear()
    one.send(GET + b"\r\n" + GET + b"Content-Length: 10\r\n\r\nhello")
    one.may_answer.set()
    await one.answered(1)
    one.may_answer.clear()
    one.loop.advance(60)
    assert one.transport.ends == []
    one.send(b"hello")
    one.may_answer.set()
    await one.answered(2)


async def test_a_broken_body_behind_a_running_answer_ends_the_connection() -> None:
    one = Connection()
    one.may_answer.clear()
    one.send(GET + b"\r\n" + GET + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
    assert (one.transport.ends, one.transport.written) == (["eof"], b"")
    one.loop.advance(5)
    assert one.transport.ends == ["eof", "aborted"]
    one.may_answer.set()


async def test_a_body_that_nobody_wanted_and_that_ended_leaves_the_connection_usable() -> None:
    one = Connection()
    for number in range(1, 4):
        one.send(GET + b"Content-Length: 10\r\n\r\nhello")
        await one.answered(number)
        one.loop.advance(4)
        one.send(b"hello")
    one.loop.advance(9)
    assert one.transport.ends == []
    one.loop.advance(1)
    assert one.transport.ends == ["closed"], "nor does it stay open without a next request"


async def test_a_connection_that_is_closed_in_mid_body_goes_once_the_body_is_there() -> None:
    one = Connection()
    one.send(GET + b"Connection: close\r\nContent-Length: 10\r\n\r\nhello")
    await one.answered()
    assert one.transport.ends == ["eof"]
    one.send(b"hello")
    assert one.transport.ends == ["eof", "closed"]
    one.loop.advance(100)
    assert one.transport.ends == ["eof", "closed"]


async def test_a_client_that_does_not_read_is_cut_off_and_one_that_reads_slowly_is_not() -> None:
    one = Connection()
    one.send(GET + b"\r\n")
    await one.answered()
    one.protocol._gentle.write(b"x" * 100_000)
    one.transport.num_unread = 100_000
    one.protocol.pause_writing()
    for _ in range(2):
        one.transport.num_unread -= 31_000
        one.loop.advance(30)
        assert "aborted" not in one.transport.ends
    one.transport.num_unread -= 1000
    one.loop.advance(30)
    assert one.transport.ends[-1] == "aborted"


async def test_a_buffer_that_emptied_and_filled_again_is_no_stall() -> None:
    one = Connection()
    one.send(GET + b"\r\n")
    await one.answered()
    one.protocol._gentle.write(b"x" * 100_000)
    one.transport.num_unread = 100_000
    one.protocol.pause_writing()
    one.protocol._gentle.write(b"x" * 100_000)
    one.loop.advance(30)
    assert "aborted" not in one.transport.ends


async def test_an_answer_that_nobody_reads_does_not_keep_a_closed_connection() -> None:
    one = Connection()
    one.send(GET + b"Connection: close\r\n\r\n")
    one.transport.num_unread = 50
    await one.answered()
    assert one.transport.ends == ["closed"]
    one.loop.advance(30)
    assert one.transport.ends == ["closed", "aborted"]


async def test_a_connection_that_is_gone_leaves_no_timer_and_no_place() -> None:
    one = Connection()
    one.send(GET + b"Content-Length: 10\r\n\r\nhello")
    await one.answered()
    one.transport.num_unread = 10
    one.protocol.pause_writing()
    one.protocol.connection_lost(None)
    one.loop.advance(1000)
    assert one.transport.ends == []
    assert one.crowd.total == 0
