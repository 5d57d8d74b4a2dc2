"""Ends a worker that does not get on, so that its supervisor starts another and its jobs go on elsewhere.

Two things are watched, from the event loop: what the backend computes, and the event loop itself. For the second a
timer of the library's own runs, which needs neither the loop nor the interpreter's lock and is put back while all is
well. Time in which the whole process stood still does not count as the backend's.
"""

import asyncio
import faulthandler
import logging
import time
from collections.abc import Callable

from schemas.control import STALLED
from workers.handlers.base import FatalError, JobHandler

log = logging.getLogger(__name__)

STDERR = 2
LOOK_S = 1.0
LOOKS_PER_LIMIT = 8
LEAVE_S = 20.0
"""A process that is to end and has not by then is ended."""


class Watchdog:
    """limit_s: how long something may be computed without getting on; None: the longest that the backend expects."""

    def __init__(self, handler: JobHandler, limit_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._handler = handler
        self._limit_s = handler.stats().longest_step_s if limit_s is None else limit_s
        self._look_s = min(LOOK_S, self._limit_s / LOOKS_PER_LIMIT)
        self._clock = clock
        self._looked_at = clock()
        self._seen: dict[str, int] = {}
        self._stalled_s: dict[str, float] = {}

    async def watch(self) -> None:
        """Look again and again, until cancelled. Where the backend hangs, `fatal` of the handler gets its error."""
        try:
            while True:
                faulthandler.dump_traceback_later(self._limit_s, exit=True, file=STDERR)
                stalled = self.look()
                if stalled is not None:
                    self._give_up(stalled)
                    await asyncio.Event().wait()
                await asyncio.sleep(self._look_s)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def look(self) -> str | None:
        """What has been computed for longer than the limit without getting on, if anything has."""
        now = self._clock()
        elapsed_s, self._looked_at = min(now - self._looked_at, 2 * self._look_s), now
        under_way = self._handler.stats().under_way
        self._stalled_s = {
            name: self._stalled_s.get(name, 0.0) + elapsed_s if self._seen.get(name) == progress else 0.0
            for name, progress in under_way.items()
        }
        self._seen = under_way
        return next((name for name, stalled_s in self._stalled_s.items() if stalled_s >= self._limit_s), None)

    def _give_up(self, name: str) -> None:
        log.critical("%s has not got on for %.0f s: this worker ends. Where its threads are:", name, self._limit_s)
        faulthandler.dump_traceback_later(LEAVE_S, exit=True, file=STDERR)
        faulthandler.dump_traceback(STDERR)
        if not self._handler.fatal.done():
            self._handler.fatal.set_exception(FatalError(STALLED))
