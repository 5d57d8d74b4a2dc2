"""A model's lines of waiting jobs in Redis as one worker reads them: find a pointer, then try to be the one that takes.

A pointer that was read and not followed (its reader died, or was out of credit) is anybody's after a lease.
"""

import contextlib
import logging
import time
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from schemas import redis_names as names
from schemas.control import Cancel, Drain, Hello, Taken
from schemas.jobs import Job
from schemas.redis_link import BLOCK_S, Fields
from schemas.wire import WireError, decode_for_worker, encode

log = logging.getLogger(__name__)

TAKE = """
-- KEYS: line, job, its gateway's mailbox. ARGV: group, pointer, worker, its Hello, its Taken. Returns the job's bytes
-- to one worker only, and tells its gateway; nothing where it was cancelled or taken or its gateway is gone.
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
local job = redis.call('GET', KEYS[2])
redis.call('DEL', KEYS[2])
if not job or redis.call('EXISTS', KEYS[3]) == 0 then
  return false
end
redis.call('XADD', KEYS[3], '*', 'worker', ARGV[3], 'hello', ARGV[4], '0', ARGV[5])
return job
"""


@dataclass(frozen=True, slots=True)
class Pointer:
    """Somebody should take a job."""

    line: str
    entry_id: bytes
    job_id: str
    gateway_id: str
    epoch: int


class Lines:
    """The lines of the model that this worker holds."""

    def __init__(self, client: Redis, hello: Hello, lease_s: float) -> None:
        self._client = client
        self._take = client.register_script(TAKE)
        self._hello = hello
        self._lines = names.lines_of(hello.card.name)
        self._lease_s = lease_s
        self._block_ms = max(1, int(1000 * min(BLOCK_S, lease_s / 4)))
        self._claimed_at = 0.0

    async def read(self) -> list[Pointer]:
        """What should be taken, at most one of each line; none if nothing comes for a while."""
        try:
            if time.monotonic() - self._claimed_at >= self._lease_s:
                self._claimed_at = time.monotonic()
                if left_behind := await self._claim_left_behind():
                    return left_behind
            return await self._read_new()
        except ResponseError as error:
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise
            await self._make()
            return []

    async def take(self, pointer: Pointer) -> Job | None:
        """The job itself, if it still waits; its gateway knows then that it is here."""
        gateway = names.gateway_mailbox(pointer.gateway_id)
        job_key = names.job_key(self._hello.card.name, pointer.job_id, pointer.epoch)
        worker_id = self._hello.worker_id
        taken = Taken(worker_id=worker_id, job_id=pointer.job_id, epoch=pointer.epoch)
        data = await self._take(
            keys=[pointer.line, job_key, gateway],
            args=[names.GROUP, pointer.entry_id, worker_id, encode(self._hello), encode(taken)],
        )
        if data is None:
            return None
        try:
            job = decode_for_worker(data)
        except WireError as error:
            log.warning("dropped a job of %d bytes: %s", len(data), error)
            return None
        return None if isinstance(job, Cancel | Drain) else job

    async def renew(self) -> None:
        """Keep the lines alive while this worker is."""
        async with self._client.pipeline(transaction=False) as pipe:
            for line in self._lines:
                pipe.pexpire(line, int(1000 * names.LINE_TTL_S), nx=True)
                pipe.pexpire(line, int(1000 * names.LINE_TTL_S), gt=True)
            await pipe.execute()

    async def _read_new(self) -> list[Pointer]:
        # One line after the other, so that no more is read than one worker can take; all only to wait for any.
        for line in self._lines:
            if pointers := await self._read_lines([line], None):
                return pointers
        return await self._read_lines(self._lines, self._block_ms)

    async def _read_lines(self, lines: list[str], block_ms: int | None) -> list[Pointer]:
        streams: dict[Any, Any] = dict.fromkeys(lines, ">")
        answer: Any = await self._client.xreadgroup(names.GROUP, names.CONSUMER, streams, count=1, block=block_ms)
        return [_pointer(line.decode(), *entry) for line, entries in answer for entry in entries]

    async def _claim_left_behind(self) -> list[Pointer]:
        found: list[Pointer] = []
        for line in self._lines:
            answer: Any = await self._client.xautoclaim(
                line, names.GROUP, names.CONSUMER, min_idle_time=int(1000 * self._lease_s), count=1
            )
            found += [_pointer(line, entry_id, fields) for entry_id, fields in answer[1]]
        return found

    async def _make(self) -> None:
        for line in self._lines:
            with contextlib.suppress(ResponseError):  # BUSYGROUP: it is there.
                await self._client.xgroup_create(line, names.GROUP, id="0", mkstream=True)
        await self.renew()


def _pointer(line: str, entry_id: bytes, fields: Fields) -> Pointer:
    try:
        job_id, gateway_id = fields[names.JOB].decode(), fields[names.GATEWAY].decode()
        return Pointer(line, entry_id, job_id, gateway_id, int(fields[names.EPOCH]))
    except (KeyError, ValueError):
        log.warning("an entry of a line is no pointer")
        return Pointer(line, entry_id, "", "", 0)  # To no job: it is removed as one whose job is gone.
