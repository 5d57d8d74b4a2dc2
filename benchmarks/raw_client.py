"""A client of streams that costs next to nothing: bytes and when they came are noted, and read only afterwards."""

import asyncio
import json
import re
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate

ANSWER_S = 120.0
_STAMP = re.compile(rb'"content":"(\d+) "')
_END_OF_BODY = b"\r\n0\r\n\r\n"


@dataclass(slots=True)
class Stream:
    """One answer as it came. Times are CLOCK_MONOTONIC, in ns. pieces: (when it came, the bytes)."""

    sent_ns: int
    pieces: list[tuple[int, bytes]] = field(default_factory=list)

    def delays_ns(self) -> list[int]:
        """Of each chunk with a time as its text: from that time until the whole chunk was there."""
        ends = list(accumulate(len(piece) for _, piece in self.pieces))
        return [
            self.pieces[bisect_left(ends, found.end())][0] - int(found[1])
            for found in _STAMP.finditer(b"".join(piece for _, piece in self.pieces))
        ]

    def first_ns(self) -> int:
        """From the request until the first chunk with text. Raises ValueError where there was none."""
        for arrival_ns, piece in self.pieces:
            if _STAMP.search(piece):
                return arrival_ns - self.sent_ns
        raise ValueError(f"no chunk with text in {b''.join(piece for _, piece in self.pieces)[:300]!r}")


class _Reader(asyncio.Protocol):
    """One connection with one request after another."""

    def __init__(self) -> None:
        self._stream: Stream | None = None
        self._done: asyncio.Future[None] | None = None
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._stream is not None and self._done is not None
        self._stream.pieces.append((time.monotonic_ns(), data))
        self._tail = (self._tail + data)[-len(_END_OF_BODY) :]
        if self._tail == _END_OF_BODY and not self._done.done():
            self._done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            said = b"".join(piece for _, piece in self._stream.pieces) if self._stream is not None else b""
            self._done.set_exception(ConnectionError(f"the server hung up after {said[:300]!r}"))

    async def ask(self, request: bytes) -> Stream:
        self._stream = Stream(time.monotonic_ns())
        self._done = asyncio.get_running_loop().create_future()
        self._tail = b""
        self.transport.write(request)
        async with asyncio.timeout(ANSWER_S):
            await self._done
        return self._stream


async def stream_all(port: int, model: str, num_clients: int, num_rounds: int, num_tokens: int) -> list[Stream]:
    """Let so many clients of 127.0.0.1:`port` each ask for so many answers of so many tokens, one after another.

    Raises ConnectionError where a connection ends too early, TimeoutError where an answer does.
    """
    loop = asyncio.get_running_loop()
    request = _request(model, num_tokens)

    async def one_client() -> list[Stream]:
        transport, reader = await loop.create_connection(_Reader, "127.0.0.1", port)
        try:
            return [await reader.ask(request) for _ in range(num_rounds)]
        finally:
            transport.close()

    answered = await asyncio.gather(*(one_client() for _ in range(num_clients)))
    return [stream for streams in answered for stream in streams]


def _request(model: str, num_tokens: int) -> bytes:
    messages = [{"role": "user", "content": "Describe the picture in detail please."}]
    body = json.dumps({"model": model, "messages": messages, "max_tokens": num_tokens, "stream": True}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
