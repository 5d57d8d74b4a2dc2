"""A timer for what is set by the thousand a second and hardly ever rings."""

import asyncio
from collections.abc import Callable
from typing import Self


class Alarm:
    """Inside `with Alarm(after_s, ring) as alarm`, `ring` is called once `after_s` have gone by since the last `set`.

    Setting and clearing it costs next to nothing: the loop's timer behind it is left to run, and when it fires it is
    seen whether there is anything to ring for. A timer of the loop for each chunk is a tenth of what the chunk costs.
    """

    def __init__(self, after_s: float, ring: Callable[[], None]) -> None:
        self._after_s = after_s
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._rings_at_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        if self._timer is not None:
            self._timer.cancel()

    def set(self) -> None:
        """Ring in `after_s` from now; what it was set to before is forgotten."""
        self._rings_at_s = self._loop.time() + self._after_s
        if self._timer is None:
            self._timer = self._loop.call_at(self._rings_at_s, self._look)

    def clear(self) -> None:
        """Do not ring until it is set again."""
        self._rings_at_s = None

    def _look(self) -> None:
        self._timer = None
        if self._rings_at_s is None:
            return
        if self._rings_at_s <= self._loop.time():
            self.clear()
            self._ring()
        else:
            self._timer = self._loop.call_at(self._rings_at_s, self._look)
