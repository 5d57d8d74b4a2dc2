"""All batches of this gateway: made, looked up, cancelled, worked on, and taken up again after a restart."""

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec

from schemas.errors import ErrorCode, GlimpsedError, RequestError
from schemas.openai.batches import BatchesQuery, BatchRequest
from schemas.openai.files import DAY_S, HOUR_S
from server.batches import records
from server.batches.records import RUNNING, BatchRecord, Status
from server.batches.work import BatchWork
from server.files.database import Database
from server.files.ids import new_id
from server.files.store import FileStore
from server.fleet import Fleet

WINDOWS_S = {"24h": DAY_S}
TICK_S = 0.25
RETRY_S = 10.0

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Ongoing:
    """Work on one batch. retry_at_s: when it is to be begun anew, on the loop's clock, if it failed."""

    task: "asyncio.Task[None]"
    expires_at: int
    retry_at_s: float = math.inf


class Batches:
    """max_batches: of each tenant; the oldest that have ended make room. clock: Unix seconds.

    Work that fails (the disk is full) is begun anew after a while, from what the database says.
    """

    def __init__(
        self,
        database: Database,
        files: FileStore,
        work: BatchWork,
        fleet: Fleet,
        max_batches: int,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._files = files
        self._work = work
        self._fleet = fleet
        self._max_batches = max_batches
        self._clock = clock
        self._ongoing: dict[str, _Ongoing] = {}
        self._next_purge_s = 0.0
        self._is_resumed = False

    def __contains__(self, batch_id: object) -> bool:
        """Whether a batch is being worked on, or will be again."""
        return batch_id in self._ongoing

    async def run(self) -> None:
        """Look after everything until cancelled; then leave it to be taken up again."""
        try:
            while True:
                pause_s = TICK_S
                try:
                    await self.tick()
                except (GlimpsedError, OSError):
                    logger.exception("batches cannot be looked after; trying again in %.0f s", RETRY_S)
                    pause_s = RETRY_S
                await asyncio.sleep(pause_s)
        finally:
            await self._stop()

    async def tick(self) -> None:
        """Take up at first what was broken off; end what is overdue, tidy up now and then, and stop everything when
        the server is about to leave."""
        if self._fleet.is_draining or not self._database.is_open:
            await self._stop()
            return
        if not self._is_resumed:
            for batch_id, expires_at in await self._database.call(records.unfinished):
                if batch_id not in self._ongoing:
                    self._start(batch_id, expires_at)
            self._is_resumed = True
        loop_time_s = asyncio.get_running_loop().time()
        now = self._clock()
        for batch_id, ongoing in list(self._ongoing.items()):
            if ongoing.retry_at_s <= loop_time_s:
                self._start(batch_id, ongoing.expires_at)
            if ongoing.expires_at <= now and await self._work.move(batch_id, RUNNING, Status.FINALIZING):
                await self._restart(batch_id, ongoing.expires_at)
        if now >= self._next_purge_s:
            self._next_purge_s = now + HOUR_S
            await self._files.purge()
            await self._database.call(lambda db: db.execute("PRAGMA incremental_vacuum").fetchall())

    async def create(self, tenant: str, wanted: BatchRequest) -> BatchRecord:
        """A new batch, to be worked on from now on. Raises RequestError, Overloaded, Unavailable."""
        file = await self._files.get(wanted.input_file_id, tenant, "input_file_id")
        if file.purpose != "batch":
            message = "Invalid value for 'input_file_id': the file was not uploaded with the purpose 'batch'."
            raise RequestError(ErrorCode.INVALID_VALUE, message, "input_file_id")
        batch = self._new(tenant, wanted)
        await self._work.accept(batch, self._max_batches)
        self._start(batch.id, batch.expires_at)
        return batch

    async def get(self, batch_id: str, tenant: str) -> BatchRecord:
        """A tenant's batch. Raises RequestError."""
        batch = await self._database.call(partial(records.find, batch_id=batch_id))
        if batch is None or batch.tenant != tenant:
            raise RequestError(ErrorCode.NOT_FOUND, "There is no such batch.", "batch_id")
        return batch

    async def list(self, tenant: str, query: BatchesQuery) -> tuple[list[BatchRecord], bool]:
        """A page of a tenant's batches, the newest first, and whether more follow."""
        read = partial(records.page, tenant=tenant, after=query.after, limit=query.limit + 1)
        found = await self._database.call(read)
        return found[: query.limit], len(found) > query.limit

    async def cancel(self, batch_id: str, tenant: str) -> BatchRecord:
        """Stop a tenant's batch; what is answered by now is in its files soon. Raises RequestError when it has ended
        otherwise."""
        await self.get(batch_id, tenant)
        if await self._work.move(batch_id, RUNNING, Status.CANCELLING):
            batch = await self.get(batch_id, tenant)
            await self._restart(batch_id, batch.expires_at)
            return batch
        batch = await self.get(batch_id, tenant)
        if batch.status not in (Status.CANCELLING, Status.CANCELLED):
            message = f"A batch with the status '{batch.status}' cannot be cancelled."
            raise RequestError(ErrorCode.INVALID_REQUEST, message, "batch_id")
        return batch

    def _new(self, tenant: str, wanted: BatchRequest) -> BatchRecord:
        now = self._clock()
        metadata = None if wanted.metadata is None else msgspec.json.encode(wanted.metadata).decode()
        expiry = wanted.output_expires_after
        return BatchRecord(
            id=new_id("batch_", now),
            tenant=tenant,
            endpoint=wanted.endpoint,
            input_file_id=wanted.input_file_id,
            completion_window=wanted.completion_window,
            metadata=metadata,
            output_lifetime_s=None if expiry is None else expiry.seconds,
            created_at=int(now),
            expires_at=int(now) + WINDOWS_S[wanted.completion_window],
        )

    def _start(self, batch_id: str, expires_at: int) -> None:
        if not self._fleet.is_draining:
            task = asyncio.create_task(self._work.run(batch_id), name=batch_id)
            self._ongoing[batch_id] = _Ongoing(task, expires_at)
            task.add_done_callback(self._settle)

    async def _restart(self, batch_id: str, expires_at: int) -> None:
        """Break the work off and begin it anew."""
        if (ongoing := self._ongoing.get(batch_id)) is not None:
            ongoing.task.cancel()
            await asyncio.gather(ongoing.task, return_exceptions=True)
        self._start(batch_id, expires_at)

    async def _stop(self) -> None:
        tasks = [ongoing.task for ongoing in self._ongoing.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _settle(self, task: "asyncio.Task[None]") -> None:
        batch_id = task.get_name()
        ongoing = self._ongoing.get(batch_id)
        if ongoing is None or ongoing.task is not task:
            return
        if task.cancelled() or (error := task.exception()) is None:
            del self._ongoing[batch_id]
        else:
            logger.error("%s cannot go on; trying again in %.0f s", batch_id, RETRY_S, exc_info=error)
            ongoing.retry_at_s = asyncio.get_running_loop().time() + RETRY_S
