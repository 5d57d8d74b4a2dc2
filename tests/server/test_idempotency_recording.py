"""Shared answers, with the middleware's parts played directly: clients that leave, do not read, or come late."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.types import Message, Receive, Scope, Send

from schemas.errors import RequestError
from server.idempotency import IdempotentAnswers
from server.idempotency_recording import Recording
from tests.fakes.clock import Clock


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


class Listener:
    """A client of a recording: reads on demand, may leave."""

    def __init__(self, recording: Recording, *, reads: bool = True, is_replay: bool = False) -> None:
        self.messages: list[Message] = []
        self._reads = asyncio.Event()
        if reads:
            self._reads.set()
        self._leaves = asyncio.Event()
        self.served = asyncio.create_task(recording.play(self._receive, self._send, is_replay=is_replay))

    async def _receive(self) -> Message:
        await self._leaves.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self._reads.wait()
        self.messages.append(message)

    def leave(self) -> None:
        self._leaves.set()

    def read(self) -> None:
        self._reads.set()

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])

    @property
    def is_ended(self) -> bool:
        return bool(self.messages) and not self.messages[-1].get("more_body", True)


class App:
    """An application that answers piece by piece, when it is told to."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.was_told_of_leaving = False
        self.num_sent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["body"] == b"asked"
        leaving = asyncio.create_task(receive())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        try:
            while (piece := await self._next(leaving)) is not None:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                self.num_sent += 1
            if not self.was_told_of_leaving:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            leaving.cancel()

    async def _next(self, leaving: "asyncio.Task[Message]") -> bytes | None:
        getting = asyncio.create_task(self.pieces.get())
        await asyncio.wait({getting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done() and not getting.done():
            getting.cancel()
            self.was_told_of_leaving = True
            return None
        piece = getting.result()
        if isinstance(piece, Exception):
            raise piece
        return piece


@asynccontextmanager
async def recorded(max_bytes: int = 1000, stall_s: float = 30.0) -> AsyncIterator[tuple[App, Recording]]:
    app, recording = App(), Recording(max_bytes, stall_s)
    task = asyncio.create_task(recording.record(app, {"type": "http"}, b"asked"))
    yield app, recording
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_one_that_joins_late_hears_it_all_from_the_beginning() -> None:
    async with recorded() as (app, recording):
        first = Listener(recording)
        app.pieces.put_nowait(b"one ")
        await until(lambda: first.body == b"one ")
        second = Listener(recording, is_replay=True)
        await until(lambda: second.body == b"one ")
        app.pieces.put_nowait(b"two")
        app.pieces.put_nowait(None)
        await asyncio.gather(first.served, second.served)
    assert first.body == second.body == b"one two" and first.is_ended and second.is_ended
    assert first.messages[0]["headers"] == [(b"a", b"b")]
    assert second.messages[0]["headers"][1] == (b"idempotent-replayed", b"true")
    assert recording.is_success


async def test_one_that_leaves_does_not_end_it_for_the_other_and_the_last_does() -> None:
    async with recorded() as (app, recording):
        first, second = Listener(recording), Listener(recording)
        app.pieces.put_nowait(b"one ")
        await until(lambda: first.body == second.body == b"one ")
        first.leave()
        await first.served
        app.pieces.put_nowait(b"two")
        await until(lambda: second.body == b"one two")
        assert not app.was_told_of_leaving and recording.is_joinable
        second.leave()
        await second.served
        assert not recording.is_joinable
        await until(lambda: recording.is_over)
        assert app.was_told_of_leaving and not recording.is_success


async def test_one_that_does_not_read_is_dropped_and_hinders_nobody() -> None:
    async with recorded(stall_s=0.01) as (app, recording):
        deaf, good = Listener(recording, reads=False), Listener(recording)
        app.pieces.put_nowait(b"one")
        deaf._reads.set()
        await until(lambda: bool(deaf.messages))
        deaf._reads.clear()
        app.pieces.put_nowait(b" two")
        await deaf.served
        app.pieces.put_nowait(None)
        await good.served
    assert good.body == b"one two" and good.is_ended and not deaf.is_ended


async def test_an_answer_that_grows_too_long_waits_for_its_slowest_client_and_is_not_kept() -> None:
    async with recorded(max_bytes=10) as (app, recording):
        quick, slow = Listener(recording), Listener(recording)
        for _ in range(5):
            app.pieces.put_nowait(b"12345678")
        await until(lambda: bool(slow.messages))
        slow._reads.clear()
        await until(lambda: len(quick.body) >= 16)
        for _ in range(20):
            await asyncio.sleep(0)
        assert recording.size_bytes <= 24, "bounded while one client lags"
        slow.read()
        app.pieces.put_nowait(None)
        await asyncio.gather(quick.served, slow.served)
    assert quick.body == slow.body == b"12345678" * 5
    assert not recording.is_success and not recording.is_joinable


async def test_what_the_application_raises_reaches_each_that_listens() -> None:
    async with recorded() as (app, recording):
        listeners = [Listener(recording), Listener(recording)]
        app.pieces.put_nowait(b"one")
        app.pieces.put_nowait(RuntimeError("broken"))
        found = await asyncio.gather(*(one.served for one in listeners), return_exceptions=True)
    assert [str(error) for error in found] == ["broken", "broken"]
    assert all(one.body == b"one" and not one.is_ended for one in listeners)
    assert not recording.is_success


def kept(answers: IdempotentAnswers, key: str, body: bytes = b"answer") -> Recording:
    recording = Recording(1000, 30.0)
    answers.begin(("", key), b"f", recording)
    recording._start = {"type": "http.response.start", "status": 200, "headers": []}
    recording._body += body
    recording.is_complete = recording.is_over = True
    answers.end(("", key), recording)
    return recording


def test_answers_are_forgotten_after_the_window() -> None:
    clock = Clock()
    answers = IdempotentAnswers(60.0, clock)
    recording = kept(answers, "a")
    clock.advance(59)
    assert answers.find(("", "a"), b"f") is recording
    with pytest.raises(RequestError):
        answers.find(("", "a"), b"g")
    clock.advance(1)
    assert answers.find(("", "a"), b"g") is None
    assert (len(answers), answers.size_bytes) == (0, 0)


def test_the_oldest_answers_go_when_they_are_too_many_or_too_long() -> None:
    answers = IdempotentAnswers(60.0, Clock(), max_answers=3, max_bytes=20)
    for key in "abcd":
        kept(answers, key)
    assert [answers.find(("", key), b"f") is not None for key in "abcd"] == [False, True, True, True]
    kept(answers, "e", b"x" * 15)
    assert [answers.find(("", key), b"f") is not None for key in "bcde"] == [False, False, False, True]
    assert (len(answers), answers.size_bytes) == (1, 15)


def test_without_a_window_only_what_runs_can_be_joined() -> None:
    answers = IdempotentAnswers(0.0, Clock())
    recording = Recording(1000, 30.0)
    answers.begin(("", "a"), b"f", recording)
    assert answers.find(("", "a"), b"f") is recording
    kept(answers, "a")
    assert answers.find(("", "a"), b"f") is None


def test_an_abandoned_answer_that_ends_late_does_not_take_the_place_of_a_new_one() -> None:
    answers = IdempotentAnswers(60.0, Clock())
    old, new = Recording(1000, 30.0), Recording(1000, 30.0)
    answers.begin(("", "a"), b"f", old)
    answers.begin(("", "a"), b"f", new)
    answers.end(("", "a"), old)
    assert answers.find(("", "a"), b"f") is new
