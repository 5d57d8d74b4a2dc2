"""The worker's main loop: claims jobs, has each answered by the handler, publishes events, renews leases, drains.

Every claimed job gets exactly one last event for its epoch (Finished or Failed), unless it was cancelled or this
process ends first; then the gateway learns of it from the lost lease. Knows neither models nor sockets.
"""

import asyncio
import contextlib
import logging
from typing import Any

import msgspec

from schemas.control import Cancel, Drain, Heartbeat, Hello
from schemas.errors import EngineError, GlimpsedError
from schemas.events import Event, Failed, Finished
from schemas.jobs import Job
from schemas.wire import HEARTBEAT_S
from workers.handlers.base import FatalError, JobHandler
from workers.health import beat
from workers.transport.base import JobSource

log = logging.getLogger(__name__)

DRAIN_ANSWER_S = 1.0
"""How long a draining worker waits for the gateway's word that no more jobs are on their way."""


class Worker:
    """One worker's life.

    max_jobs: how many jobs it holds at a time. drain_s: how long running jobs get once it is to drain; what is left
    then is handed back, for another worker to go on with. None: as long as they take.
    """

    def __init__(
        self,
        source: JobSource,
        handler: JobHandler,
        hello: Hello,
        max_jobs: int,
        heartbeat_s: float = HEARTBEAT_S,
        drain_s: float | None = None,
    ) -> None:
        self._source = source
        self._handler = handler
        self._hello = hello
        self._max_jobs = max_jobs
        self._heartbeat_s = heartbeat_s
        self._drain_s = drain_s
        self._outbox = _Outbox(source)
        self._tasks: dict[str, tuple[int, asyncio.Task[None]]] = {}
        self._drain_asked = asyncio.Event()
        self._no_more_jobs = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._has_news = asyncio.Event()

    async def run(self) -> None:
        """Serve until drained. Raises FatalError when the backend cannot go on; running jobs then move elsewhere."""
        await self._source.start(self._hello)
        await self._source.claim(self._max_jobs)
        lives = [
            asyncio.create_task(part)
            for part in (
                self._until_drained(),
                self._receive(),
                self._outbox.send_all(),
                beat(self._heartbeat, self._heartbeat_s, self._has_news),
                self._until_fatal(),
            )
        ]
        reason = ""
        try:
            done, _ = await asyncio.wait(lives, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise
        finally:
            await _cancel_all([*lives, *(task for _, task in self._tasks.values())])
            await self._source.close(reason)

    @property
    def is_draining(self) -> bool:
        """Whether `drain` was asked for."""
        return self._drain_asked.is_set()

    def drain(self) -> None:
        """Take no new jobs, finish or hand back what runs, then let `run` return."""
        if not self.is_draining:
            log.info("draining: %d jobs still run", len(self._tasks))
            self._drain_asked.set()

    async def _until_drained(self) -> None:
        await self._drain_asked.wait()
        await self._heartbeat()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._no_more_jobs.wait(), DRAIN_ANSWER_S)
        try:
            async with asyncio.timeout(self._drain_s):
                await self._is_idle.wait()
        except TimeoutError:
            # They stop as the loop ends, and not before: a heartbeat that leaves them out would call them lost.
            log.warning("%d jobs did not end within %.0f s and are handed back", len(self._tasks), self._drain_s)
        await self._outbox.flush()

    async def _until_fatal(self) -> None:
        await asyncio.shield(self._handler.fatal)
        raise FatalError("the backend stopped")

    async def _receive(self) -> None:
        async for message in self._source.messages():
            match message:
                case Cancel():
                    self._cancel(message.job_id)
                case Drain():
                    if self.is_draining:
                        self._no_more_jobs.set()
                    self.drain()
                case job:
                    self._begin(job)
        raise ConnectionError("the queue was closed")

    def _begin(self, job: Job) -> None:
        held = self._tasks.get(job.job_id)
        if held is not None and held[0] >= job.epoch:
            log.warning("job %s was delivered twice", job.job_id)
            self._outbox.add_credit()
            return
        # A later epoch of a job that still runs here: the gateway took this worker for lost in between.
        self._cancel(job.job_id)
        task = asyncio.create_task(self._answer(job), name=f"job-{job.job_id}")
        self._tasks[job.job_id] = (job.epoch, task)
        self._is_idle.clear()
        task.add_done_callback(lambda done: self._ended(job, done))

    def _cancel(self, job_id: str) -> None:
        held = self._tasks.get(job_id)
        if held is not None:
            held[1].cancel()

    async def _answer(self, job: Job) -> None:
        stream = _JobStream(job, self._outbox)
        try:
            await self._handler.run(job, stream.publish)
            if not stream.has_ended:
                raise RuntimeError("the handler returned without a last event")
        except FatalError as error:
            if not self._handler.fatal.done():
                self._handler.fatal.set_exception(error)
        except GlimpsedError as error:
            stream.fail(error)
        except Exception:
            log.exception("job %s failed", job.job_id)
            # Where the backend is broken as a whole the job is fine: it moves to another worker with the rest.
            if not self._handler.fatal.done():
                stream.fail(EngineError("the engine failed on this request"))

    def _ended(self, job: Job, task: asyncio.Task[None]) -> None:
        if self._tasks.get(job.job_id) == (job.epoch, task):
            del self._tasks[job.job_id]
        if not self._tasks:
            self._is_idle.set()
            # Whoever looks at an idle worker must not see it busy for another second.
            self._has_news.set()
        if not self.is_draining:
            self._outbox.add_credit()

    async def _heartbeat(self) -> None:
        # A job's last event goes out before a heartbeat that no longer names it, or it would be taken for lost.
        await self._outbox.flush()
        stats = self._handler.stats()
        await self._source.heartbeat(
            Heartbeat(
                worker_id=self._hello.worker_id,
                state="draining" if self.is_draining else "ready",
                running=stats.running,
                waiting=stats.waiting,
                kv_usage=stats.kv_usage,
                job_ids=tuple(self._tasks),
                metrics=stats.metrics,
            )
        )


class _JobStream:
    """The events of one job and epoch: numbered without a gap, nothing after the last one."""

    def __init__(self, job: Job, outbox: "_Outbox") -> None:
        self._job = job
        self._outbox = outbox
        self._next_seq = 0
        self.has_ended = False

    def publish(self, event: Event) -> None:
        """Number an event and put it in the outbox."""
        if self.has_ended:
            raise RuntimeError(f"an event after the last one of job {self._job.job_id}: {type(event).__name__}")
        self.has_ended = isinstance(event, Finished | Failed)
        self._outbox.add(msgspec.structs.replace(event, seq=self._next_seq))
        self._next_seq += 1

    def fail(self, error: GlimpsedError) -> None:
        """End the job with an error, if it has not ended."""
        if not self.has_ended:
            self.publish(
                Failed(
                    job_id=self._job.job_id,
                    epoch=self._job.epoch,
                    seq=0,
                    code=error.code,
                    message=error.message,
                    param=error.param,
                )
            )


class _Outbox:
    """Events and credits on their way out: what came up in one turn of the event loop is sent together."""

    def __init__(self, source: JobSource) -> None:
        self._source = source
        self._events: list[Event] = []
        self._credits = 0
        self._has_some = asyncio.Event()
        self._sending = asyncio.Lock()

    def add(self, event: Event) -> None:
        self._events.append(event)
        self._has_some.set()

    def add_credit(self) -> None:
        self._credits += 1
        self._has_some.set()

    async def send_all(self) -> None:
        """Send whatever comes up, for ever."""
        while True:
            await self._has_some.wait()
            await self.flush()

    async def flush(self) -> None:
        """Returns once nothing is left to be sent."""
        while self._events or self._credits or self._sending.locked():
            async with self._sending:
                events, self._events = self._events, []
                credits, self._credits = self._credits, 0
                self._has_some.clear()
                if events:
                    await self._source.publish(events)
                if credits:
                    await self._source.claim(credits)


async def _cancel_all(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
