"""The gateway's end of a queue in Redis, which several gateways and the workers of several hosts share.

Lines of waiting jobs lie in Redis; who holds which job, and when a worker counts as lost, each gateway decides for its
own jobs by what it hears in its mailbox, in one order: a worker took a job, its events, its heartbeats.
schemas.redis_names lists the keys; docs/architecture.md says why nothing is lost.
"""

import asyncio
import contextlib
import logging
import platform
import secrets
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Mapping

from schemas import redis_names as names
from schemas.control import Goodbye, Heartbeat, Taken
from schemas.errors import Overloaded, Unavailable
from schemas.events import Accepted, Delta, Event, Failed, Finished
from schemas.jobs import Job
from schemas.redis_link import (
    BLOCK_S,
    ENTRIES_PER_READ,
    FAILURES,
    Fields,
    Mailbox,
    connect,
    keep_repeating,
    leave_if_cancelled,
    repeat,
)
from schemas.wire import LEASE_S, ToGateway, WireError
from server.transport.affinity import AffinityCounts
from server.transport.answers import RESUME_WINDOW_S
from server.transport.base import JobLost, WorkerInfo
from server.transport.leases import Leases
from server.transport.pace import Pace
from server.transport.redis_answers import RedisAnswers
from server.transport.redis_lines import NO_LIMIT, Lines, WaitingJob, waiting_job
from server.transport.redis_mail import read_mail, send_cancels
from server.transport.redis_offers import Offers

log = logging.getLogger(__name__)

TICK_S = 0.25
CHECK_S = 1.0
"""How often waiting jobs are looked for in Redis; one that is missing twice is lost."""
STOOD_STILL_S = 1.0
ANY_EPOCH = 1 << 53


class RedisQueue:
    """A JobQueue for workers anywhere.

    max_queue: jobs that may wait for one model, of all gateways. lease_s: silence after which a worker is taken for
    lost, and after which this gateway counts as gone. affinity_margin: see Affinity. resume_window_s: how long answers
    are kept for other gateways. Raises ConfigError for a bad URL.
    """

    def __init__(
        self,
        url: str,
        max_queue: int,
        lease_s: float = LEASE_S,
        affinity_margin: float = 0.0,
        resume_window_s: float = RESUME_WINDOW_S,
    ) -> None:
        self._client = connect(url)
        self._max_queue = max_queue
        self._id = secrets.token_hex(8)
        self._lines = Lines(self._client, self._id)
        self.answers = RedisAnswers(self._client, self._id, resume_window_s)
        self._mailbox = Mailbox(self._client, names.gateway_mailbox(self._id), lease_s)
        self._lease_s = lease_s
        self._tick_s = min(TICK_S, lease_s / 4)
        self._leases = Leases(time.monotonic, lease_s)
        self._offers = Offers(affinity_margin, self._leases)
        self._waiting: dict[str, WaitingJob] = {}
        self._paces: defaultdict[str, Pace] = defaultdict(Pace)
        self._to_cancel: list[tuple[str, str, int]] = []
        self._dead: deque[str] = deque(maxlen=256)
        """Workers whose process is known to have ended."""
        self._heard_at = self._checked_at = 0.0
        self._is_open = self._is_closed = False
        self._tasks: list[asyncio.Task[None]] = []
        self._inbox: asyncio.Queue[Event | JobLost | None] = asyncio.Queue()
        self.dropped_frames = 0

    async def start(self) -> None:
        """See JobQueue. Redis need not be there yet."""
        self._heard_at = time.monotonic()
        with contextlib.suppress(*FAILURES):
            await self._tick()  # A job taken before there is a mailbox would be taken for a dead gateway's.
        self._tasks = [
            keep_repeating("queue-tick", repeat(self._tick, self._leases.renew_all, self._tick_s), self._end_messages),
            keep_repeating("queue-receive", repeat(self._receive, self._leases.renew_all), self._end_messages),
        ]

    async def submit(self, job: Job, *, front: bool = False) -> None:
        """See JobQueue. Raises Unavailable, unless `front`, when Redis does not answer."""
        if self._is_closed:
            raise Unavailable("The server is about to leave.")
        if not self._is_open:
            raise Unavailable("The server's queue cannot be reached.")
        waiting = waiting_job(job, time.monotonic(), is_resumed=front)
        self._leases.release(job.job_id)
        if not front:
            self._offers.offer(job, waiting, self._waiting.values())
        # Booked before it is sent: a worker may have it before Redis has answered here.
        self._waiting[job.job_id] = waiting
        try:
            num_waiting = await self._lines.put(job, waiting, NO_LIMIT if front else self._max_queue)
        except FAILURES as error:
            if front:
                return  # A resumed job is not refused: it will be found missing, and sent again.
            self._waiting.pop(job.job_id, None)
            raise Unavailable("The server's queue cannot be reached.") from error
        leave_if_cancelled()
        if waiting.pointer is None:
            self._waiting.pop(job.job_id, None)
            raise Overloaded(
                f"{num_waiting} requests already wait for the model '{job.model}'; try again later",
                self._paces[job.model].retry_after_s(num_waiting, time.monotonic()),
            )

    async def cancel(self, job_id: str) -> None:
        """See JobQueue. What Redis does not hear now, the worker hears after its next heartbeat."""
        if self._is_closed:
            return
        with contextlib.suppress(*FAILURES):
            waiting = self._waiting.pop(job_id, None)
            if waiting is not None:
                await self._lines.withdraw([waiting])
            elif (epoch := self._leases.epoch_of(job_id)) is not None:
                worker_id = self._leases.release(job_id)
                assert worker_id is not None
                await send_cancels(self._client, [(worker_id, job_id, epoch)])

    async def messages(self) -> AsyncIterator[Event | JobLost]:
        """See JobQueue."""
        while (message := await self._inbox.get()) is not None:
            yield message

    def workers(self) -> list[WorkerInfo]:
        """See JobQueue."""
        return self._leases.workers()

    def depth(self, model: str) -> int:
        """See JobQueue."""
        return self._lines.depth(model)

    def affinity(self) -> AffinityCounts:
        """See JobQueue."""
        return self._offers.counts

    def lost_workers(self) -> Mapping[tuple[str, str], int]:
        """See JobQueue."""
        return self._leases.lost_workers

    def local_pids(self) -> set[int]:
        """The processes of workers on this host."""
        return {hello.pid for hello in self._leases.hellos() if hello.host == platform.node()}

    def worker_died(self, pid: int) -> None:
        """The supervisor saw this process on this host end: report its jobs, once all that it said is read."""
        for hello in self._leases.hellos():
            if hello.pid == pid and hello.host == platform.node():
                task = asyncio.create_task(self._lines.note_end(hello.worker_id))
                self._tasks.append(task)
                task.add_done_callback(self._tasks.remove)

    async def close(self) -> None:
        """Take back what waits and be gone: workers stop what they do for this gateway. `messages` ends."""
        self._is_closed = True
        self.answers.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(*FAILURES):
            await self._lines.withdraw(self._waiting.values())
            await self._client.srem(names.GATEWAYS, self._id)
            await self._client.delete(names.gateway_mailbox(self._id))
        await self._client.aclose()
        self._end_messages()

    def _end_messages(self) -> None:
        self._inbox.put_nowait(None)

    async def _tick(self) -> None:
        if await self._mailbox.renew() and self._is_open:
            await self._begin_anew()
        self._is_open = True
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.sadd(names.GATEWAYS, self._id)
            pipe.pexpire(names.GATEWAYS, int(1000 * self._lease_s))
            await pipe.execute()
        await self._lines.share(self._offers.overdue(self._waiting.values(), time.monotonic()))
        models = {hello.card.name for hello in self._leases.hellos()}
        await self._lines.count(models | {waiting.model for waiting in self._waiting.values()})
        if time.monotonic() - self._checked_at >= min(CHECK_S, self._lease_s):
            self._checked_at = time.monotonic()
            await self._check_waiting()

    async def _begin_anew(self) -> None:
        """The mailbox was lost (Redis restarted empty, or this process stood still): anything may have been in it."""
        log.warning("the mailbox was lost; %d jobs begin anew", len(self._waiting) + len(self._leases.held()))
        waiting, self._waiting = self._waiting, {}
        lost = [_lost_by_the_queue(job_id, job.epoch) for job_id, job in waiting.items()]
        for job_id in self._leases.held():
            lost.append(_lost_by_the_queue(job_id, self._leases.epoch_of(job_id) or 0))
            self._leases.release(job_id)
        self._report(lost)
        await self._lines.withdraw(waiting.values())

    async def _check_waiting(self) -> None:
        """Report jobs that are neither in Redis nor with a worker: it lost them, and nobody else would ever say so."""
        looked_at = list(self._waiting.items())
        missing = await self._lines.missing([waiting for _, waiting in looked_at])
        for place, (job_id, waiting) in enumerate(looked_at):
            if self._waiting.get(job_id) is not waiting:
                continue  # Taken or cancelled meanwhile.
            if place in missing and waiting.was_missing:
                del self._waiting[job_id]
                self._report([_lost_by_the_queue(job_id, waiting.epoch)])
            # Once may be a job just taken, whose notice is still to be read.
            waiting.was_missing = place in missing

    async def _receive(self) -> None:
        entries = await self._mailbox.read(min(BLOCK_S, self._tick_s))
        now = time.monotonic()
        if now - self._heard_at > BLOCK_S + STOOD_STILL_S:
            self._leases.renew_all()
        self._heard_at = now
        for fields in entries:
            self._receive_entry(fields)
        if len(entries) < ENTRIES_PER_READ:
            self._report(self._leases.expire())  # With more to read, the sign of life may be in it.
        if self._to_cancel:
            cancels, self._to_cancel = self._to_cancel, []
            await send_cancels(self._client, cancels)

    def _receive_entry(self, fields: Fields) -> None:
        if names.WORKER not in fields:
            return  # The mailbox's own first entry.
        try:
            mail = read_mail(fields)
        except WireError as error:
            self.dropped_frames += 1
            log.warning("dropped an entry of the mailbox: %s", error)
            return
        if mail.hello is not None and mail.worker_id not in self._dead:
            self._leases.hello(mail.hello)
        for message in mail.messages:
            self._handle(mail.worker_id, message)
        if mail.has_ended:
            self._dead.append(mail.worker_id)
            self._report(self._leases.worker_lost(mail.worker_id))

    def _handle(self, worker_id: str, message: ToGateway) -> None:
        match message:
            case Taken():
                self._handle_taken(message)
            case Heartbeat():
                if self._leases.is_known(worker_id):
                    lost, strays = self._leases.heartbeat(message)
                    self._report(lost)
                    self._to_cancel += [(worker_id, job_id, self._newest_void(job_id)) for job_id in strays]
            case Goodbye():
                log.info("worker %s left: %s", worker_id, message.reason or "drained")
                self._report(self._leases.goodbye(message))
            case Accepted() | Delta() | Finished() | Failed():
                if self._is_anothers(worker_id, message):
                    return
                self._leases.event(worker_id, message)
                self._inbox.put_nowait(message)

    def _handle_taken(self, taken: Taken) -> None:
        waiting = self._waiting.get(taken.job_id)
        if waiting is None or waiting.epoch != taken.epoch:
            self._to_cancel.append((taken.worker_id, taken.job_id, taken.epoch))
            return
        del self._waiting[taken.job_id]
        self._paces[waiting.model].saw_one_taken(time.monotonic())
        self._offers.saw_one_taken(waiting.digests, taken.worker_id)
        if self._leases.is_known(taken.worker_id):
            self._leases.hold(taken.worker_id, taken.job_id, taken.epoch, trial_tokens=waiting.trial_tokens)
        else:
            self._report([JobLost(taken.job_id, taken.epoch, taken.worker_id)])

    def _is_anothers(self, worker_id: str, event: Event) -> bool:
        """Whether another worker holds this very attempt: a Redis that went back in time gave it out twice."""
        holder_id = self._leases.holder_of(event.job_id)
        return holder_id not in (None, worker_id) and self._leases.epoch_of(event.job_id) == event.epoch

    def _newest_void(self, job_id: str) -> int:
        """The latest epoch of a job that no worker should work on, where a worker holds it and should not."""
        waiting = self._waiting.get(job_id)
        epoch = waiting.epoch if waiting is not None else self._leases.epoch_of(job_id)
        return ANY_EPOCH if epoch is None else epoch - 1

    def _report(self, lost: Iterable[JobLost]) -> None:
        for job in lost:
            log.warning("job %s (epoch %d) was lost with %s", job.job_id, job.epoch, job.worker_id or "no worker")
            self._inbox.put_nowait(job)


def _lost_by_the_queue(job_id: str, epoch: int) -> JobLost:
    return JobLost(job_id, epoch, worker_id="", was_taken=False)
