"""A model's lines of waiting jobs in Redis as one worker reads them: find a pointer, then try to be the one that takes.

A pointer that was read and not followed (its reader died, or was out of credit) is anybody's a moment later.
"""

import contextlib
import logging
from collections.abc import Sequence
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

LEFT_BEHIND_S = 0.25
"""A pointer that was read and not followed for so long is left behind. To follow one takes a turn to Redis; where its
reader is only slow, the job still goes to one worker."""

TRIAL_LOOK_S = 0.02
"""How often a worker with a job on trial sees whether that is over; what is looked for meanwhile comes at once."""

FIND = """
-- KEYS: lines. ARGV: group, consumer, ms behind which a pointer that was read is left behind. Returns a line and its
-- pointer, of the first line that has one: an old one before a new one.
for _, line in ipairs(KEYS) do
  local left = redis.call('XAUTOCLAIM', line, ARGV[1], ARGV[2], ARGV[3], '0', 'COUNT', 1)[2]
  if #left > 0 then
    return {line, left[1]}
  end
  local new = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1, 'STREAMS', line, '>')
  if new then
    return {line, new[1][2][1]}
  end
end
return false
"""

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
    """The lines of the model that this worker holds, and its own."""

    def __init__(self, client: Redis, hello: Hello) -> None:
        self._client = client
        self._find = client.register_script(FIND)
        self._take = client.register_script(TAKE)
        self._hello = hello
        self._lines = names.lines_of_worker(hello.card.name, hello.worker_id)

    async def read(self, *, has_one_on_trial: bool) -> list[Pointer]:
        """What should be taken, at most one of each line; none if nothing comes for a while. has_one_on_trial: other
        suspected jobs are left to others, and looked for again soon."""
        lines = self._lines[1:] if has_one_on_trial else self._lines
        try:
            found = await self._find(keys=lines, args=[names.GROUP, names.CONSUMER, int(1000 * LEFT_BEHIND_S)])
            if found is not None:
                line, (entry_id, fields) = found
                return [_pointer(line.decode(), entry_id, dict(zip(fields[::2], fields[1::2], strict=True)))]
            return await self._wait_for_one(lines, TRIAL_LOOK_S if has_one_on_trial else BLOCK_S)
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

    async def close(self) -> None:
        """Leave nothing of this worker's own behind; what lies there its gateways offer to all."""
        await self._client.delete(names.own_line(self._hello.card.name, self._hello.worker_id))

    async def _wait_for_one(self, lines: Sequence[str], block_s: float) -> list[Pointer]:
        streams: dict[Any, Any] = dict.fromkeys(lines, ">")
        block_ms = int(1000 * block_s)
        answer: Any = await self._client.xreadgroup(names.GROUP, names.CONSUMER, streams, count=1, block=block_ms)
        return [_pointer(line.decode(), *entry) for line, entries in answer for entry in entries]

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
