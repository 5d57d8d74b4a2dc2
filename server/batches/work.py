"""The life of one batch, from wherever it stands to its end: check its input, answer its lines, write its files.

Each step is committed before the next begins, so that work which was broken off, by a cancellation, by the end of its
time or by the end of the process, goes on from the database alone.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial

from schemas.errors import ErrorCode, Overloaded, RequestError, TooMuch
from server.batches import records
from server.batches.check import InputCheck, InputChecker
from server.batches.lines import LineRunner
from server.batches.metrics import BatchMetrics
from server.batches.output import BatchFiles
from server.batches.records import ENDED, BatchRecord, Outcome, Status
from server.files.database import Database

FULL_RETRY_S = 60.0
MAX_CHECKS = 2
"""Inputs that are checked at a time; the lines of each are in memory meanwhile."""


class BatchWork:
    """Works on batches. clock: Unix seconds."""

    def __init__(
        self,
        database: Database,
        checker: InputChecker,
        lines: LineRunner,
        files: BatchFiles,
        metrics: BatchMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._checker = checker
        self._lines = lines
        self._files = files
        self._metrics = metrics
        self._clock = clock
        self._checks = asyncio.Semaphore(MAX_CHECKS)

    async def accept(self, batch: BatchRecord, max_batches: int) -> None:
        """Take a new batch into the records, where its tenant may have another. Raises Overloaded, RequestError."""
        await self._database.call(partial(_insert, batch=batch, max_batches=max_batches))
        self._metrics.reached(Status.VALIDATING)

    async def run(self, batch_id: str) -> None:
        """Bring a batch to its end, or to where somebody else has moved it. Raises OSError, Unavailable or
        ExceptionGroup when the storage fails: then the batch stands where it stood."""
        batch = await self._find(batch_id)
        if batch.status == Status.VALIDATING:
            async with self._checks:
                await self._validate(batch)
            batch = await self._find(batch_id)
        if batch.status == Status.IN_PROGRESS:
            await self._lines.run(batch)
            await self.move(batch_id, [Status.IN_PROGRESS], Status.FINALIZING)
            batch = await self._find(batch_id)
        if batch.status not in ENDED:
            await self._end(batch)

    async def move(self, batch_id: str, sources: Sequence[Status], target: Status) -> bool:
        """Put a batch from one of these statuses into another; False where it is in none of them."""
        now = int(self._clock())
        change = partial(records.advance, batch_id=batch_id, sources=sources, target=target, now=now)
        is_moved = await self._database.call(change)
        if is_moved:
            self._metrics.reached(target)
        return is_moved

    async def _validate(self, batch: BatchRecord) -> None:
        check: InputCheck = await self._checker.check(batch)
        now = int(self._clock())
        if check.errors:
            target = Status.FAILED
            change = partial(records.fail, batch_id=batch.id, errors=check.errors, now=now)
        else:
            target = Status.IN_PROGRESS
            change = partial(records.begin, batch_id=batch.id, model=check.model, lines=check.lines, now=now)
        if await self._database.call(change):
            self._metrics.reached(target)

    async def _end(self, batch: BatchRecord) -> None:
        num_unanswered = batch.num_lines - batch.num_completed - batch.num_failed
        if batch.status == Status.CANCELLING:
            target = Status.CANCELLED
        elif num_unanswered or not batch.num_lines:
            target = Status.EXPIRED
        else:
            target = Status.COMPLETED
        num_expired = await self._files.end(batch, target, int(self._clock()))
        self._metrics.ended(Outcome.EXPIRED, num_expired)
        self._metrics.reached(target)

    async def _find(self, batch_id: str) -> BatchRecord:
        batch = await self._database.call(partial(records.find, batch_id=batch_id))
        assert batch is not None, "only ended batches are forgotten"
        return batch


def _insert(db: sqlite3.Connection, batch: BatchRecord, max_batches: int) -> None:
    if not records.make_room(db, batch.tenant, max_batches):
        message = f"There are {max_batches} batches already that have not ended; try again later."
        raise Overloaded(message, FULL_RETRY_S, TooMuch.BATCHES)
    if db.execute("SELECT 1 FROM files WHERE id = ?", (batch.input_file_id,)).fetchone() is None:
        raise RequestError(ErrorCode.NOT_FOUND, "There is no such file.", "input_file_id")
    records.insert(db, batch)
