"""The ledger of jobs in flight: what each client was given, and what happens when a worker is lost.

Events are delivered in one task and one synchronous step each. An event is believed only if it belongs to the job's
present epoch and continues exactly what came before; an older epoch's is dropped, a gap counts as a lost worker. A
lost job is submitted again, before all that waits, with the token ids that its client already has. A job that a lost
worker had begun may be what killed it: from then on it is suspected, and its next worker tries no other such job beside
it (Job.trial_tokens) until it has come some tokens further. One whose worker is lost in that time is failed.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import msgspec

from schemas.errors import EngineError, ErrorCode, GlimpsedError, Overloaded, Unavailable
from schemas.events import Accepted, Event
from schemas.jobs import BACKGROUND_PRIORITY, Job
from server.errors import internal_error
from server.job_stream import JobStream
from server.limits.gate import Gate, Passage
from server.metrics import JobMetrics
from server.submit import new_job_id
from server.trail import Trail
from server.transport.base import JobLost, JobQueue

MAX_HANDOVERS = 8
"""Times that a job is handed out at all; the end of one that kills workers before they can say that they have it."""
TEND_S = 0.5
"""How often waiting jobs are looked at."""
NO_WORKER_RETRY_S = 5.0

logger = logging.getLogger(__name__)


class Inflight:
    """Every job between its submission and its end, by id.

    worker_wait_s: how long a job waits while its model has no worker at all. trails: of jobs that are noted, by id.
    """

    def __init__(
        self,
        queue: JobQueue,
        metrics: JobMetrics,
        gate: Gate,
        worker_wait_s: float,
        trails: Mapping[str, Trail] = MappingProxyType({}),
    ) -> None:
        self._queue = queue
        self._metrics = metrics
        self._gate = gate
        self._worker_wait_s = worker_wait_s
        self._trails = trails
        self._unserved_since: dict[str, float] = {}
        self._seen_models: set[str] = set()
        self._streams: dict[str, JobStream] = {}
        self._passages: dict[str, Passage] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._streams)

    @asynccontextmanager
    async def open(self, job: Job) -> AsyncIterator[JobStream]:
        """Submit a job and yield its stream; left before the end, the job is cancelled.

        A job that another gateway began and that goes on here is submitted before all that waits, as it was let in.
        A job in the background is none of its key's tokens a minute and adds nothing to the backlog of live ones; it
        may be ended with Overloaded, to make way for one of them.
        Raises Overloaded when the queue is full, Unavailable when this gateway hears from no worker any more.
        """
        if self._is_closed:
            raise Unavailable("The server is about to leave.")
        loop = asyncio.get_running_loop()
        job = self._gate.admit(job)
        trail = self._trails.get(job.job_id)
        is_known = trail is not None and bool(trail.events)
        if trail is not None:
            job = trail.queued(job, new_job_id())
        passage = None if is_known or _is_background(job) else self._gate.enter(job)
        if passage is not None:
            self._passages[job.job_id] = passage
        stream = JobStream(job, loop.time, self._metrics.watch(job.model), trail)
        self._streams[job.job_id] = stream
        deadline = loop.call_at(stream.deadline_s, self._expire, stream)
        try:
            if not stream.is_over:
                await self._submit(stream.job, is_known=is_known)
            yield stream
        finally:
            deadline.cancel()
            if passage is not None:
                del self._passages[job.job_id]
                passage.leave(stream.num_generated)
            await self.abandon(stream)

    async def _submit(self, job: Job, *, is_known: bool) -> None:
        try:
            await self._queue.submit(job, front=is_known)
        except Overloaded:
            if _is_background(job) or not await self._withdraw_one(job.model):
                raise
            # In front, as the place that has become free is still on its way to the queue.
            await self._queue.submit(job, front=True)

    async def _withdraw_one(self, model: str) -> bool:
        """End the background job of a model on which the least work was done. False where there is none."""
        streams = [one for one in self._streams.values() if one.job.model == model and not one.is_over]
        background = [stream for stream in streams if _is_background(stream.job)]
        if not background:
            return False
        stream = min(background, key=lambda one: one.num_generated)
        stream.fail(Overloaded("Live requests took the place.", retry_after_s=1.0))
        await self._queue.cancel(stream.job.job_id)
        return True

    async def abandon(self, stream: JobStream) -> None:
        """Forget a job whose client is gone or done; whatever still works on it stops."""
        if self._streams.pop(stream.job.job_id, None) is not None and not stream.is_over:
            stream.fail(GlimpsedError(ErrorCode.CANCELLED, "The client left."))
            await self._queue.cancel(stream.job.job_id)

    async def run(self) -> None:
        """Deliver what the queue brings until it closes; then nothing can be served any more."""
        try:
            async for message in self._queue.messages():
                self.deliver(message)
        finally:
            self.close()

    def close(self) -> None:
        """Fail what is in flight and admit nothing more."""
        self._is_closed = True
        for stream in self._streams.values():
            stream.fail(Unavailable("The server is about to leave."))

    def deliver(self, message: Event | JobLost) -> None:
        """Take one message of the queue into the ledger."""
        stream = self._streams.get(message.job_id)
        if stream is None or stream.is_over or message.epoch != stream.job.epoch:
            self._metrics.stale_events.inc()
        elif isinstance(message, JobLost):
            self._recover(stream, message)
        elif stream.continues_with(message):
            stream.append(message)
            if isinstance(message, Accepted) and (passage := self._passages.get(message.job_id)) is not None:
                passage.accepted(message)
            if stream.is_overrun:
                self._give_up(stream, GlimpsedError(ErrorCode.CANCELLED, "The client reads too slowly."))
        elif message.seq < stream.next_seq:
            self._metrics.stale_events.inc()
        else:
            logger.warning("job %s: events missing before seq %d", message.job_id, message.seq)
            self._recover(stream, None)

    async def tend(self) -> None:
        """Look after waiting jobs, until cancelled."""
        while True:
            await asyncio.sleep(TEND_S)
            self.give_up_unserved(asyncio.get_running_loop().time())

    def give_up_unserved(self, now_s: float) -> None:
        """Fail the jobs that have waited too long for a model that has no worker."""
        waiting = [stream for stream in self._streams.values() if stream.is_waiting]
        served = {worker.card.name for worker in self._queue.workers()}
        self._seen_models |= served
        unserved = {stream.job.model for stream in waiting} - served
        self._unserved_since = {model: self._unserved_since.get(model, now_s) for model in unserved}
        for stream in waiting:
            if stream.job.model in unserved:
                since_s = max(stream.began_s, self._unserved_since[stream.job.model])
                if now_s - since_s >= self._worker_wait_s:
                    self._give_up(stream, self._no_worker(stream.job.model))

    def _no_worker(self, model: str) -> Unavailable:
        message = "No worker for this model came in time."
        if model not in self._seen_models:
            message = "The model is still being loaded; GET /readyz tells when it is ready."
        return Unavailable(message, NO_WORKER_RETRY_S)

    def _recover(self, stream: JobStream, lost: JobLost | None) -> None:
        """Have a job go on elsewhere. lost: how its worker was lost; None: it still has it, and events are missing."""
        self._metrics.jobs_lost.inc()
        stream.num_losses += lost is None or lost.was_taken
        num_handovers = stream.job.epoch + 1
        is_convicted = lost is not None and lost.was_on_trial
        if is_convicted or num_handovers >= MAX_HANDOVERS:
            logger.error(
                "job %s was lost %d times, %d of them by a worker that had begun it%s; it is failed",
                stream.job.job_id,
                num_handovers,
                stream.num_losses,
                ", the last time on trial" if is_convicted else "",
            )
            error = EngineError("The workers that served this request failed.")
            if lost is None:
                self._give_up(stream, error)
            else:
                stream.fail(error)
            return
        stream.begin_next_epoch()
        self._spawn(self._resubmit(stream, is_still_held=lost is None))

    async def _resubmit(self, stream: JobStream, *, is_still_held: bool) -> None:
        try:
            if is_still_held:
                await self._queue.cancel(stream.job.job_id)
            if self._streams.get(stream.job.job_id) is stream and not stream.is_over:
                job = msgspec.structs.replace(stream.job, timeout_s=stream.time_left_s())
                await self._queue.submit(job, front=True)
                self._metrics.jobs_resumed.inc()
        except GlimpsedError as error:
            stream.fail(error)
        except Exception:
            stream.fail(internal_error())
            raise

    def _expire(self, stream: JobStream) -> None:
        is_served = any(worker.card.name == stream.job.model for worker in self._queue.workers())
        self._give_up(stream, stream.overdue(is_served))

    def _give_up(self, stream: JobStream, error: GlimpsedError) -> None:
        if not stream.is_over:
            stream.fail(error)
            self._spawn(self._queue.cancel(stream.job.job_id))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._settle)

    def _settle(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("the queue failed: %s", type(error).__name__, exc_info=error)


def _is_background(job: Job) -> bool:
    return job.priority >= BACKGROUND_PRIORITY
