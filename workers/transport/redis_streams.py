"""The worker's end of a queue in Redis, which several gateways and the workers of several hosts share.

Three things go on side by side: pointers to jobs are read and followed while there is credit, orders are read from
this worker's mailbox, and events and heartbeats are written to the mailboxes of the gateways that they concern.
A gateway whose mailbox is gone is gone itself, and what was done for it stops. schemas.redis_names lists the keys.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from schemas import redis_names as names
from schemas.control import Cancel, Drain, Goodbye, Heartbeat, Hello
from schemas.events import Delta, Event, Failed, Finished
from schemas.jobs import Job
from schemas.redis_link import (
    BLOCK_S,
    FAILURES,
    Fields,
    Mailbox,
    backed_off,
    connect,
    keep_repeating,
    leave_if_cancelled,
    put,
    repeat,
)
from schemas.wire import LEASE_S, ToGateway, WireError, decode_for_worker, encode
from workers.transport.redis_lines import Lines

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Held:
    """trial_tokens: how many must still be told until the job is suspected no more."""

    gateway_id: str
    epoch: int
    since: float
    trial_tokens: int


class RedisSource:
    """A JobSource for gateways anywhere.

    lease_s: how long this worker's mailbox outlives it, and a gateway that Redis may have lost is waited for. Raises
    ConfigError for an unusable URL.
    """

    def __init__(self, url: str, lease_s: float = LEASE_S) -> None:
        self._client = connect(url)
        self._lease_s = lease_s
        self._block_s = min(BLOCK_S, lease_s / 4)
        self._credits = 0
        self._is_draining = False
        self._has_changed = asyncio.Event()
        self._failed_at = -lease_s
        self._held: dict[str, _Held] = {}
        self._sending = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._inbox: asyncio.Queue[Job | Cancel | Drain | None] = asyncio.Queue()
        self.dropped_frames = 0

    async def start(self, hello: Hello) -> None:
        """See JobSource. Redis need not be there yet."""
        self._hello = hello
        self._lines = Lines(self._client, hello)
        self._mailbox = Mailbox(self._client, names.worker_mailbox(hello.worker_id), self._lease_s)
        with contextlib.suppress(*FAILURES):
            await self._mailbox.renew()
            await self._tell_gateways({}, ())
        self._tasks = [
            keep_repeating(name, repeat(turn, self._failed), self._end_messages)
            for name, turn in (("queue-jobs", self._look_for_jobs), ("queue-orders", self._look_for_orders))
        ]

    async def claim(self, credits: int) -> None:
        """See JobSource."""
        self._credits += credits
        self._has_changed.set()

    async def messages(self) -> AsyncIterator[Job | Cancel | Drain]:
        """See JobSource."""
        while (message := await self._inbox.get()) is not None:
            yield message

    async def publish(self, events: Sequence[Event]) -> None:
        """See JobSource. Waits while Redis does not answer."""
        by_gateway: dict[str, list[Event]] = {}
        for event in events:
            held = self._held.get(event.job_id)
            if held is not None:
                by_gateway.setdefault(held.gateway_id, []).append(event)

        async def attempt() -> None:
            async with self._client.pipeline(transaction=False) as pipe:
                for gateway_id, its_events in by_gateway.items():
                    put(pipe, names.gateway_mailbox(gateway_id), self._mail(its_events))
                await pipe.execute()

        if by_gateway:
            async with self._sending:
                # Sent twice where the answer was lost: the gateway knows an event that it has seen.
                await backed_off(attempt, self._failed)
        for event in events:
            held = self._held.get(event.job_id)
            if held is None or held.epoch != event.epoch:
                continue
            if isinstance(event, Finished | Failed):
                del self._held[event.job_id]
            elif held.trial_tokens and isinstance(event, Delta):
                held.trial_tokens = max(0, held.trial_tokens - len(event.token_ids))

    async def heartbeat(self, heartbeat: Heartbeat) -> None:
        """See JobSource. Each gateway hears of its own jobs only. One that cannot be sent now is left out."""
        self._forget_all_but(heartbeat.job_ids)
        by_gateway: dict[str, list[str]] = {}
        for job_id in heartbeat.job_ids:
            held = self._held.get(job_id)
            if held is None:
                self._inbox.put_nowait(Cancel(job_id=job_id))  # Nobody waits for it.
            else:
                by_gateway.setdefault(held.gateway_id, []).append(job_id)
        try:
            async with self._sending:
                await self._tell_gateways(by_gateway, (heartbeat,))
        except FAILURES:
            self._failed()
        leave_if_cancelled()
        if heartbeat.state == "draining":
            self._is_draining = True
            self._has_changed.set()

    async def close(self, reason: str = "") -> None:
        """See JobSource."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        with contextlib.suppress(*FAILURES):
            await self._tell_gateways({}, (Goodbye(worker_id=self._hello.worker_id, reason=reason),))
            await self._client.delete(names.worker_mailbox(self._hello.worker_id))
            await self._lines.close()
        await self._client.aclose()
        self._end_messages()

    def _end_messages(self) -> None:
        self._inbox.put_nowait(None)

    def _failed(self) -> None:
        self._failed_at = time.monotonic()

    async def _look_for_jobs(self) -> None:
        if self._is_draining:
            # No pointer is being followed here any more: no job is on its way.
            self._inbox.put_nowait(Drain())
            await asyncio.Event().wait()
        if self._credits <= 0:
            self._has_changed.clear()
            await self._has_changed.wait()
            return
        has_one_on_trial = any(held.trial_tokens for held in self._held.values())
        for pointer in await self._lines.read(has_one_on_trial=has_one_on_trial):
            # What is more than can be taken is soon anybody's.
            if self._credits > 0 and (job := await self._lines.take(pointer)) is not None:
                self._credits -= 1
                self._held[job.job_id] = _Held(pointer.gateway_id, job.epoch, time.monotonic(), job.trial_tokens)
                self._inbox.put_nowait(job)

    async def _look_for_orders(self) -> None:
        await self._mailbox.renew()
        for fields in await self._mailbox.read(self._block_s):
            self._receive_order(fields)
        await self._leave_dead_gateways()

    def _receive_order(self, fields: Fields) -> None:
        if names.ORDER not in fields:
            return  # The mailbox's own first entry.
        try:
            order = decode_for_worker(fields[names.ORDER])
            epoch = int(fields.get(names.EPOCH, b"0"))
        except (WireError, ValueError) as error:
            self.dropped_frames += 1
            log.warning("dropped an entry of the mailbox: %s", error)
            return
        if isinstance(order, Cancel):
            held = self._held.get(order.job_id)
            if held is not None and held.epoch > epoch:
                return  # It was meant for an attempt before this one.
            if held is not None:
                held.trial_tokens = 0
        self._inbox.put_nowait(order)

    async def _leave_dead_gateways(self) -> None:
        """Stop the jobs of gateways that are gone. Behind a failure of Redis, a gateway gets a lease to be back."""
        if not self._held or time.monotonic() - self._failed_at < self._lease_s:
            return
        gateway_ids = list({held.gateway_id for held in self._held.values()})
        async with self._client.pipeline(transaction=False) as pipe:
            for gateway_id in gateway_ids:
                pipe.exists(names.gateway_mailbox(gateway_id))
            are_there = await pipe.execute()
        dead = {gateway_id for gateway_id, is_there in zip(gateway_ids, are_there, strict=True) if not is_there}
        for job_id in [job_id for job_id, held in self._held.items() if held.gateway_id in dead]:
            log.warning("job %s is dropped: its gateway is gone", job_id)
            del self._held[job_id]
            self._inbox.put_nowait(Cancel(job_id=job_id))

    async def _tell_gateways(self, by_gateway: Mapping[str, Sequence[str]], messages: Sequence[ToGateway]) -> None:
        """Write to all gateways; of a heartbeat, each sees its own job ids."""
        await self._lines.renew()
        members: set[Any] = await self._client.smembers(names.GATEWAYS)
        gateway_ids = [gateway_id.decode() for gateway_id in members]
        async with self._client.pipeline(transaction=False) as pipe:
            for gateway_id in gateway_ids:
                job_ids = tuple(by_gateway.get(gateway_id, ()))
                mail = [
                    msgspec.structs.replace(message, job_ids=job_ids) if isinstance(message, Heartbeat) else message
                    for message in messages
                ]
                hello = {names.HELLO: encode(self._hello)}
                put(pipe, names.gateway_mailbox(gateway_id), self._mail(mail) | hello)
            arrived = await pipe.execute()
        gone = [gateway_id for gateway_id, entry in zip(gateway_ids, arrived, strict=True) if entry is None]
        if gone:
            await self._client.srem(names.GATEWAYS, *gone)

    def _mail(self, messages: Sequence[ToGateway]) -> dict[bytes, bytes]:
        sender = {names.WORKER: self._hello.worker_id.encode("ascii")}
        return sender | {b"%d" % number: encode(message) for number, message in enumerate(messages)}

    def _forget_all_but(self, job_ids: Sequence[str]) -> None:
        """Cancelled jobs end without an event. One that just came may not be in the worker's list yet."""
        overdue = time.monotonic() - self._lease_s
        for job_id in set(self._held) - set(job_ids):
            if self._held[job_id].since < overdue:
                del self._held[job_id]
