"""Sends the body of a streamed answer, piece by piece, to a client that may stop reading."""

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Send

from server.alarm import Alarm


class BodyWriter:
    """`async with BodyWriter(...) as body`. Raises TimeoutError when the client does not read for `stall_s`."""

    def __init__(self, send: Send, stall_s: float) -> None:
        self._send = send
        self._limit = asyncio.timeout(None)
        self._alarm = Alarm(stall_s, self._stop)

    async def __aenter__(self) -> Self:
        await self._limit.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._alarm:
            await self._limit.__aexit__(kind, error, traceback)

    async def write(self, piece: bytes, is_last: bool = False) -> None:
        """Send a piece, if there is anything in it."""
        if piece:
            self._alarm.set()
            await self._send({"type": "http.response.body", "body": piece, "more_body": not is_last})
            self._alarm.clear()

    def _stop(self) -> None:
        self._limit.reschedule(asyncio.get_running_loop().time())
