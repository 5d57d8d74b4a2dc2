"""Equal calls at the same time share one run."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class SingleFlight(Generic[_T]):
    """`run(key, work)`: starts `work` unless it runs already for this key, and gives every caller its outcome.

    A caller that is cancelled leaves; the work itself is cancelled when the last one has left. One event loop.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, tuple[asyncio.Task[_T], list[None]]] = {}

    async def run(self, key: Hashable, work: Callable[[], Awaitable[_T]]) -> _T:
        if key not in self._flights:
            self._flights[key] = asyncio.get_running_loop().create_task(_as_coroutine(work)), []
        task, waiting = self._flights[key]
        waiting.append(None)
        try:
            return await asyncio.shield(task)
        finally:
            waiting.pop()
            if task.done() or not waiting:
                if self._flights.get(key, (None,))[0] is task:
                    del self._flights[key]
                task.cancel()

    async def close(self) -> None:
        tasks = [task for task, _ in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _as_coroutine(work: Callable[[], Awaitable[_T]]) -> _T:
    return await work()
