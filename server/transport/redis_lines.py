"""The lines of waiting jobs in Redis as a gateway uses them: put a job in, take it back, see whether it is still there.

All gateways share the lines; schemas.redis_names says how they lie there.
"""

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from schemas import redis_names as names
from schemas.jobs import Job
from schemas.redis_link import FAILURES, MAX_CONNECTIONS, SOCKET_TIMEOUT_S
from schemas.wire import encode

SUBMIT = """
-- KEYS: the model's lines, the job's line, the job. ARGV: most that may wait (-1: any), ms to live, the job's bytes,
-- gateway, job id, epoch. Returns how many wait, and the pointer's id unless it was refused.
local waiting = 0
for i = 1, #KEYS - 2 do
  waiting = waiting + redis.call('XLEN', KEYS[i])
end
local most, line, job = tonumber(ARGV[1]), KEYS[#KEYS - 1], KEYS[#KEYS]
if most >= 0 and waiting >= most then
  return {waiting}
end
redis.call('SET', job, ARGV[3], 'PX', ARGV[2])
local pointer = redis.call('XADD', line, '*', 'gateway', ARGV[4], 'job', ARGV[5], 'epoch', ARGV[6])
if redis.call('PTTL', line) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', line, ARGV[2])
end
return {waiting + 1, pointer}
"""

SHARE = """
-- KEYS: a worker's own line, the common one, the job. ARGV: pointer, gateway, job id, epoch. Moves a pointer from the
-- one to the other; returns the new one's id, or nothing where the job is not there any more.
redis.call('XDEL', KEYS[1], ARGV[1])
local ttl = redis.call('PTTL', KEYS[3])
if ttl <= 0 then
  return false
end
local pointer = redis.call('XADD', KEYS[2], '*', 'gateway', ARGV[2], 'job', ARGV[3], 'epoch', ARGV[4])
if redis.call('PTTL', KEYS[2]) < ttl then
  redis.call('PEXPIRE', KEYS[2], ttl)
end
return pointer
"""

MISSING = """
-- KEYS: line and job, for each. ARGV: pointer, for each. Returns the places (from 1) of those that are not there whole.
local missing = {}
for i = 1, #ARGV do
  local there = redis.call('EXISTS', KEYS[2 * i]) == 1 and ARGV[i] ~= ''
  if not there or #redis.call('XRANGE', KEYS[2 * i - 1], ARGV[i], ARGV[i]) == 0 then
    missing[#missing + 1] = i
  end
end
return missing
"""

NO_LIMIT = -1
MIN_TTL_S = 1.0
MAX_PUTS = MAX_CONNECTIONS // 2
"""At a time. With all connections at it, a burst of jobs would keep the gateway from renewing its mailbox in time."""


@dataclass(slots=True)
class WaitingJob:
    """A job that no worker is known to have taken.

    common_line: where it lies if it is offered to all. pointer: its place in the line, once Redis has said it. since:
    when it was put there. trial_tokens: see Job. digests: of its beginnings. offered_to: the worker in whose own line
    it lies.
    """

    job_id: str
    model: str
    epoch: int
    common_line: str
    key: str
    since: float
    trial_tokens: int = 0
    digests: tuple[bytes, ...] = ()
    offered_to: str | None = None
    pointer: bytes | None = None
    was_missing: bool = False

    @property
    def line(self) -> str:
        """Where it lies."""
        return self.common_line if self.offered_to is None else names.own_line(self.model, self.offered_to)


def waiting_job(job: Job, now: float, *, is_resumed: bool) -> WaitingJob:
    """A job as all workers of its model are offered it."""
    line = names.line_for(job, is_resumed=is_resumed)
    key = names.job_key(job.model, job.job_id, job.epoch)
    return WaitingJob(job.job_id, job.model, job.epoch, line, key, now, job.trial_tokens)


class Lines:
    """All models' lines. `gateway_id`: who waits for what is put in here."""

    def __init__(self, client: Redis, gateway_id: str) -> None:
        self._client = client
        self._gateway_id = gateway_id
        self._submit = client.register_script(SUBMIT)
        self._share = client.register_script(SHARE)
        self._missing = client.register_script(MISSING)
        self._depths: dict[str, int] = {}
        self._putting = asyncio.Semaphore(MAX_PUTS)

    async def put(self, job: Job, waiting: WaitingJob, most: int) -> int:
        """Put a job in its line, unless `most` jobs wait for its model already: then it has no pointer afterwards.
        Returns how many wait in the common lines."""
        ttl_ms = int(1000 * max(MIN_TTL_S, job.timeout_s))
        async with asyncio.timeout(SOCKET_TIMEOUT_S):
            await self._putting.acquire()
        try:
            answer = await self._submit(
                keys=[*names.lines_of(job.model), waiting.line, waiting.key],
                args=[most, ttl_ms, encode(job), self._gateway_id, job.job_id, job.epoch],
            )
        finally:
            self._putting.release()
        if len(answer) > 1:
            waiting.pointer = answer[1]
        self._depths[job.model] = int(answer[0])
        return int(answer[0])

    async def note_end(self, worker_id: str) -> None:
        """Write into the gateway's own mailbox that a worker's process has ended, behind its last words."""
        note: dict[Any, Any] = {names.WORKER: worker_id, names.ENDED: b""}
        with contextlib.suppress(*FAILURES):  # Then it is its silence that tells.
            async with self._putting:
                await self._client.xadd(names.gateway_mailbox(self._gateway_id), note, nomkstream=True)

    async def share(self, jobs: Iterable[WaitingJob]) -> None:
        """Offer jobs to all workers that were offered to one; whoever takes one first has it."""
        for waiting in jobs:
            pointer = await self._share(
                keys=[waiting.line, waiting.common_line, waiting.key],
                args=[waiting.pointer or b"", self._gateway_id, waiting.job_id, waiting.epoch],
            )
            waiting.offered_to, waiting.pointer = None, pointer

    async def withdraw(self, jobs: Collection[WaitingJob]) -> None:
        """Take jobs back; one that was taken meanwhile is with its worker all the same."""
        async with self._client.pipeline(transaction=False) as pipe:
            for waiting in jobs:
                pipe.delete(waiting.key)
                if waiting.pointer is not None:
                    pipe.xdel(waiting.line, waiting.pointer)
            await pipe.execute()

    async def missing(self, jobs: Sequence[WaitingJob]) -> set[int]:
        """The places, from 0, of the jobs that do not lie in Redis."""
        if not jobs:
            return set()
        keys = [key for waiting in jobs for key in (waiting.line, waiting.key)]
        places = await self._missing(keys=keys, args=[waiting.pointer or b"" for waiting in jobs])
        return {int(place) - 1 for place in places}

    def depth(self, model: str) -> int:
        """How many jobs of all gateways wait for a model, as counted a moment ago."""
        return self._depths.get(model, 0)

    async def count(self, models: Collection[str]) -> None:
        """Count anew what waits for each model."""
        lines = [(model, line) for model in models for line in names.lines_of(model)]
        async with self._client.pipeline(transaction=False) as pipe:
            for _, line in lines:
                pipe.xlen(line)
            lengths = await pipe.execute()
        depths = dict.fromkeys(models, 0)
        for (model, _), length in zip(lines, lengths, strict=True):
            depths[model] += length
        self._depths = depths
