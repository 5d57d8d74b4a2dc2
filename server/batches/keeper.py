"""All batches of this gateway: made, looked up, cancelled, worked on, and taken up again after a restart."""

import asyncio
import logging
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


@dataclass(frozen=True, slots=True)
class _Running:
    task: "asyncio.Task[None]"
    expires_at: int


class Batches:
    """max_batches: of each tenant; the oldest that have ended make room. clock: Unix seconds."""

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
        self._running: dict[str, _Running] = {}
        self._next_purge_s = 0.0
        self._is_resumed = False

    def __contains__(self, batch_id: object) -> bool:
        """Whether a batch is being worked on."""
        return batch_id in self._running

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
            for batch_id in await self._database.call(records.unfinished):
                await self._start(batch_id)
            self._is_resumed = True
        now = self._clock()
        for batch_id in [name for name, running in self._running.items() if running.expires_at <= now]:
            if await self._work.move(batch_id, RUNNING, Status.FINALIZING):
                await self._restart(batch_id)
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
        await self._start(batch.id)
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
            await self._restart(batch_id)
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

    async def _start(self, batch_id: str) -> None:
        batch = await self._database.call(partial(records.find, batch_id=batch_id))
        if batch is not None and batch_id not in self._running and not self._fleet.is_draining:
            task = asyncio.create_task(self._bring_to_its_end(batch_id), name=batch_id)
            self._running[batch_id] = _Running(task, batch.expires_at)
            task.add_done_callback(lambda _: self._forget(batch_id, task))

    async def _bring_to_its_end(self, batch_id: str) -> None:
        while True:
            try:
                return await self._work.run(batch_id)
            except Exception:
                # A group of tasks of which one fails just then passes its error on in place of the cancellation.
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    return
                logger.exception("%s cannot go on; trying again in %.0f s", batch_id, RETRY_S)
                await asyncio.sleep(RETRY_S)

    async def _restart(self, batch_id: str) -> None:
        """Break the work off and begin it anew from what the database says."""
        running = self._running.get(batch_id)
        if running is not None:
            running.task.cancel()
            await asyncio.gather(running.task, return_exceptions=True)
        await self._start(batch_id)

    async def _stop(self) -> None:
        tasks = [running.task for running in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, batch_id: str, task: "asyncio.Task[None]") -> None:
        running = self._running.get(batch_id)
        if running is not None and running.task is task:
            del self._running[batch_id]
