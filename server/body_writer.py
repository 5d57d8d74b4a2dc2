"""Sends the body of a streamed answer, piece by piece, to a client that may stop reading."""

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Send


class BodyWriter:
    """`async with BodyWriter(...) as body`. Raises TimeoutError when the client does not read for `stall_s`.

    Pieces come by the thousand a second and hardly ever have to wait, so one timer that looks after all of them stands
    for a timeout round each.
    """

    def __init__(self, send: Send, stall_s: float) -> None:
        self._send = send
        self._stall_s = stall_s
        self._loop = asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)
        self._waits_since_s: float | None = None

    async def __aenter__(self) -> Self:
        await self._limit.__aenter__()
        self._timer = self._loop.call_later(self._stall_s, self._look)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(kind, error, traceback)

    async def write(self, piece: bytes, is_last: bool = False) -> None:
        """Send a piece, if there is anything in it."""
        if piece:
            self._waits_since_s = self._loop.time()
            await self._send({"type": "http.response.body", "body": piece, "more_body": not is_last})
            self._waits_since_s = None

    def _look(self) -> None:
        now_s = self._loop.time()
        late_at_s = (now_s if self._waits_since_s is None else self._waits_since_s) + self._stall_s
        if late_at_s <= now_s:
            self._limit.reschedule(now_s)
        else:
            self._timer = self._loop.call_at(late_at_s, self._look)
