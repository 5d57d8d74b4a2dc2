"""Equal calls at the same time share one run."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from schemas.errors import Unavailable

_T = TypeVar("_T")


@dataclass
class _Flight(Generic[_T]):
    task: asyncio.Task[_T]
    num_waiting: int = 0


class SingleFlight(Generic[_T]):
    """`run(key, work)`: starts `work` unless it runs already for this key, and gives every caller its outcome.

    A caller that is cancelled leaves; the work itself is cancelled when the last one has left. One event loop.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[_T]] = {}

    async def run(self, key: Hashable, work: Callable[[], Awaitable[_T]]) -> _T:
        """Raises what the work raises, and Unavailable where `close()` ended it."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.get_running_loop().create_task(_as_coroutine(work)))
        flight.num_waiting += 1
        try:
            # Waited for, not awaited: the end of the work is no end of the caller.
            await asyncio.wait([flight.task])
        finally:
            flight.num_waiting -= 1
            if flight.task.done() or flight.num_waiting == 0:
                flight.task.cancel()
                if self._flights.get(key) is flight:
                    del self._flights[key]
        if flight.task.cancelled():
            raise Unavailable("Media cannot be prepared now: the worker is stopping.")
        return flight.task.result()

    async def close(self) -> None:
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _as_coroutine(work: Callable[[], Awaitable[_T]]) -> _T:
    return await work()
