"""When a line may run: where live requests leave room.

A line begins only while a worker of its model is ready and nobody waits for one, and only so many run at a time. What
begins nevertheless just before live requests come has their priority behind it, and gives its place up to them where
the queue is full (see inflight).
"""

import asyncio

from server.fleet import Fleet

POLL_S = 0.05
MAX_BYTES = 64 * 1024 * 1024
"""Of bodies of running lines together; a larger one runs alone."""


class Seats:
    """max_lines: how many may run at a time, of all batches together; who waits longer goes first."""

    def __init__(self, fleet: Fleet, max_lines: int) -> None:
        self._fleet = fleet
        self._free = asyncio.Semaphore(max_lines)
        self._heads: dict[str, asyncio.Lock] = {}
        self._size_bytes = 0

    def seat(self, model: str, size_bytes: int) -> "Seat":
        """A seat for a line of so many bytes, yet to be taken."""
        return Seat(self, model, size_bytes)

    async def take(self, model: str, size_bytes: int) -> None:
        """Wait for a free seat while there is room for the model."""
        # Of those who wait for one model only the first looks about; there may be a thousand.
        async with self._heads.setdefault(model, asyncio.Lock()):
            while True:
                while not self._is_open(model):
                    await asyncio.sleep(POLL_S)
                await self._free.acquire()
                if self._is_open(model) and (not self._size_bytes or self._size_bytes + size_bytes <= MAX_BYTES):
                    self._size_bytes += size_bytes
                    return
                self._free.release()
                await asyncio.sleep(POLL_S)

    def leave(self, size_bytes: int) -> None:
        """Give a seat back."""
        self._size_bytes -= size_bytes
        self._free.release()

    def _is_open(self, model: str) -> bool:
        fleet = self._fleet
        return not fleet.is_draining and fleet.num_ready().get(model, 0) > 0 and fleet.depth(model) == 0


class Seat:
    """One line's seat. Left twice it is left once."""

    def __init__(self, seats: Seats, model: str, size_bytes: int) -> None:
        self._seats = seats
        self._model = model
        self._size_bytes = size_bytes
        self._is_taken = False

    async def take(self) -> None:
        """Wait for it."""
        await self._seats.take(self._model, self._size_bytes)
        self._is_taken = True

    def leave(self) -> None:
        """Give it back, if it is taken."""
        if self._is_taken:
            self._is_taken = False
            self._seats.leave(self._size_bytes)
