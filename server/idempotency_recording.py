"""One answer that several clients may hear: recorded while it is made, played to each from its beginning.

The application that makes it never waits for a client, unless its answer outgrows what may be kept; then what all have
heard is dropped, and the answer cannot be had again. It is told that its client is gone once nobody listens any more.
"""

import asyncio
import re
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

REPLAYED = (b"idempotent-replayed", b"true")
_FAILURE = re.compile(rb'^(data: \{"error"|event: (error|response\.failed)$)', re.MULTILINE)
"""How the last piece of an event stream begins, in any of the APIs, when the stream has failed."""


class Recording:
    """max_bytes: of a body that is kept whole. stall_s: how long a client may not read before it is dropped."""

    def __init__(self, max_bytes: int, stall_s: float) -> None:
        self._max_bytes = max_bytes
        self._stall_s = stall_s
        self._start: Message | None = None
        self._body = bytearray()
        self._num_dropped = 0
        self._has_failed = False
        self._error: Exception | None = None
        self._heard: dict[int, int] = {}
        self._next_listener = 0
        self._is_abandoned = asyncio.Event()
        self._news = asyncio.Event()
        self.is_over = False
        """Nothing will be added any more."""
        self.is_complete = False
        """The answer has its end."""

    @property
    def size_bytes(self) -> int:
        """What is kept of the body."""
        return len(self._body)

    @property
    def is_joinable(self) -> bool:
        """Whether its beginning is still there, and somebody listens or it is over."""
        return not self._num_dropped and not self._is_abandoned.is_set()

    @property
    def is_success(self) -> bool:
        """Whether it is a whole answer that the client asked for, and worth keeping."""
        status = self._start["status"] if self._start is not None else 0
        return self.is_complete and status == 200 and not self._has_failed and not self._num_dropped

    async def record(self, app: ASGIApp, scope: Scope, body: bytes) -> None:
        """Have the application answer. What it raises is for those who listen."""
        is_read = False

        async def receive() -> Message:
            nonlocal is_read
            if not is_read:
                is_read = True
                return {"type": "http.request", "body": body, "more_body": False}
            await self._is_abandoned.wait()
            return {"type": "http.disconnect"}

        try:
            await app(scope, receive, self._add)
        except Exception as error:
            self._error = error
        finally:
            self.is_over = True
            self._tell()

    async def play(self, receive: Receive, send: Send, *, is_replay: bool) -> None:
        """Give the answer to one client, until its end or until the client leaves or does not read.

        Raises what the application raised.
        """
        listener = self._next_listener
        self._next_listener += 1
        self._heard[listener] = self._num_dropped
        playing = asyncio.create_task(self._play(listener, send, is_replay))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({playing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if playing.done():
                with suppress(OSError, TimeoutError):
                    playing.result()
        finally:
            playing.cancel()
            leaving.cancel()
            await asyncio.gather(playing, leaving, return_exceptions=True)
            del self._heard[listener]
            if not self._heard and not self.is_over:
                self._is_abandoned.set()
            self._trim()
            self._tell()
        if self._error is not None:
            raise self._error

    async def _play(self, listener: int, send: Send, is_replay: bool) -> None:
        while self._start is None:
            if self.is_over:
                return
            await self._news.wait()
        extra = [REPLAYED] if is_replay and REPLAYED not in self._start["headers"] else []
        await send({**self._start, "headers": [*self._start["headers"], *extra]})
        is_last = False
        while not is_last:
            piece, is_last = bytes(self._body[self._heard[listener] - self._num_dropped :]), self.is_complete
            async with asyncio.timeout(self._stall_s):
                await send({"type": "http.response.body", "body": piece, "more_body": not is_last})
            self._heard[listener] += len(piece)
            self._trim()
            while self._heard[listener] == self._num_dropped + len(self._body) and not self.is_complete:
                if self.is_over:
                    return  # Broken off: the server is to cut the connection, as it would have done without us.
                await self._news.wait()

    async def _add(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        else:
            piece = message.get("body", b"")
            self._body += piece
            if not message.get("more_body", False):
                self.is_complete = True
                self._has_failed = _FAILURE.search(piece) is not None
        self._tell()
        while len(self._body) > self._max_bytes and not self.is_complete and not self._is_abandoned.is_set():
            await self._news.wait()

    def _trim(self) -> None:
        """Drop what everybody has heard of a body that is too long to be kept."""
        if len(self._body) <= self._max_bytes or not self._heard:
            return
        num_heard = min(self._heard.values()) - self._num_dropped
        if num_heard:
            del self._body[:num_heard]
            self._num_dropped += num_heard
            self._tell()

    def _tell(self) -> None:
        """Wake whoever waits for something to have changed."""
        self._news.set()
        self._news = asyncio.Event()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
