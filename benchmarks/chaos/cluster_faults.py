"""What can happen to a cluster, and heals: each fault returns once it is over, with how long it took to be noticed."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchmarks.chaos.cluster import MODEL, Cluster, Host
from schemas.wire import LEASE_S

HOLD_S = (0.3, 2.5 * LEASE_S)
"""How long links are cut: shorter than a lease, or long enough that others answer meanwhile."""
DOWN_S = (0.0, 2.0)
FULL_S = (1.0, 4.0)
FROZEN_S = (0.5, 4.0)


@dataclass(frozen=True, slots=True)
class Fault:
    """strike: returns the seconds until it was noticed, if that is known. is_last_word: clients of gateway 0 lose their
    streams for good, however long they are."""

    name: str
    strike: Callable[[Cluster, random.Random], Awaitable[float | None]]
    is_last_word: bool = False


async def nothing(cluster: Cluster, rng: random.Random) -> None:
    """No fault."""


async def kill_worker(cluster: Cluster, rng: random.Random) -> float:
    """kill -9 of a worker that no supervisor watches; later another comes."""
    worker = rng.choice(cluster.workers)
    pid, began = worker.process.pid, time.monotonic()
    worker.kill()
    try:
        await cluster.fleets[0].gone(MODEL, pid)
        return time.monotonic() - began
    finally:
        worker.start()


async def kill_gateway(cluster: Cluster, rng: random.Random) -> float:
    """kill -9 of a gateway; once its jobs have been cancelled, it comes back."""
    gateway = cluster.gateways[0]
    gateway.kill()
    began = time.monotonic()
    try:
        await cluster.idle(1)
        return time.monotonic() - began
    finally:
        gateway.start()


async def cut_worker(cluster: Cluster, rng: random.Random) -> None:
    """A worker's link is cut for a while."""
    await _cut(rng.choice(cluster.workers), rng)


async def cut_gateway(cluster: Cluster, rng: random.Random) -> None:
    """A gateway's link is cut for a while."""
    await _cut(cluster.gateways[0], rng)


async def _cut(host: Host, rng: random.Random) -> None:
    host.link.cut()
    try:
        await asyncio.sleep(rng.uniform(*HOLD_S))
    finally:
        host.link.mend()


async def kill_redis(cluster: Cluster, rng: random.Random) -> None:
    """kill -9; it comes back with what its file says, which may lack a second."""
    cluster.redis.kill()
    await asyncio.sleep(rng.uniform(*DOWN_S))
    await asyncio.to_thread(cluster.redis.start)


async def freeze_redis(cluster: Cluster, rng: random.Random) -> None:
    """SIGSTOP, and SIGCONT later."""
    cluster.redis.freeze(True)
    try:
        await asyncio.sleep(rng.uniform(*FROZEN_S))
    finally:
        cluster.redis.freeze(False)


async def empty_redis(cluster: Cluster, rng: random.Random) -> None:
    """FLUSHALL."""
    with contextlib.closing(cluster.redis.client()) as client:
        await asyncio.to_thread(client.flushall)


async def fill_disk(cluster: Cluster, rng: random.Random) -> None:
    """Redis cannot write to its file, and refuses all that changes anything."""
    cluster.redis.fill_disk(True)
    try:
        await asyncio.sleep(rng.uniform(*FULL_S))
    finally:
        cluster.redis.fill_disk(False)


CALM = Fault("clients leave", nothing)
FAULTS = (
    Fault("kill -9 of a worker without a supervisor", kill_worker),
    Fault("kill -9 of a gateway", kill_gateway, is_last_word=True),
    Fault("a worker's link is cut and mended", cut_worker),
    Fault("a gateway's link is cut and mended", cut_gateway),
    Fault("kill -9 of Redis, restart from its file", kill_redis),
    Fault("SIGSTOP, SIGCONT of Redis", freeze_redis),
    Fault("FLUSHALL", empty_redis),
    Fault("Redis's disk is full", fill_disk),
)
