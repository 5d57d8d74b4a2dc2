"""Who can be hit, and the blows. A fleet is watched as the gateway tells of it; blows are signals to its processes."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from benchmarks.chaos.clients import clients

POLL_S = 0.1
PATIENCE_S = 60.0
HOLD_S = (0.0, 1.5)
"""How long a stopped worker stays so once the gateway has taken it for lost: in that time others answer for it."""


@dataclass(slots=True)
class Fleet:
    """Which workers each model has, by process id, and since when, in monotonic seconds."""

    client: httpx.AsyncClient
    since: dict[str, dict[int, float]] = field(default_factory=dict)

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                workers = (await self.client.get("/admin/workers")).json()["workers"]
            except httpx.TransportError:
                workers = []  # It leaves, or does not listen yet.
            now = time.monotonic()
            seen: dict[str, dict[int, float]] = {}
            for worker in workers:
                known = self.since.get(worker["model"], {})
                seen.setdefault(worker["model"], {})[worker["pid"]] = known.get(worker["pid"], now)
            self.since = seen
            await asyncio.sleep(POLL_S)

    def pids(self, model: str) -> set[int]:
        """The workers of a model."""
        return set(self.since.get(model, {}))

    async def whole(self, model: str, count: int, min_age_s: float = 0.0) -> list[int]:
        """Wait until a model has so many workers, the longest-lived of them this old; they come in order of age."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                ages = sorted(self.since.get(model, {}).items(), key=lambda item: item[1])
                if len(ages) == count and time.monotonic() - ages[0][1] >= min_age_s:
                    return [pid for pid, _ in ages]
                await asyncio.sleep(POLL_S / 2)

    async def gone(self, model: str, pid: int) -> None:
        """Wait until the gateway takes a worker for lost."""
        async with asyncio.timeout(PATIENCE_S):
            while pid in self.pids(model):
                await asyncio.sleep(POLL_S / 2)


@asynccontextmanager
async def watched(url: str) -> AsyncIterator[tuple[httpx.AsyncClient, Fleet]]:
    """A client of a gateway, and its fleet, kept up to date."""
    async with clients(url) as client:
        fleet = Fleet(client)
        watching = asyncio.create_task(fleet.watch())
        try:
            yield client, fleet
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Blow:
    """What is done to a model's workers, oldest first.

    token_factor: how much longer answers are, so that the blow ends before they do. kills: whether other processes
    must take the place of those that were hit.
    """

    name: str
    strike: Callable[[Fleet, str, list[int], float], Awaitable[None]]
    token_factor: int = 1
    kills: bool = False


async def nothing(fleet: Fleet, model: str, pids: list[int], chance: float) -> None:
    """No blow."""


async def kill_one(fleet: Fleet, model: str, pids: list[int], chance: float) -> None:
    """kill -9 of the oldest."""
    os.kill(pids[0], signal.SIGKILL)


async def kill_all(fleet: Fleet, model: str, pids: list[int], chance: float) -> None:
    """kill -9 of all at once."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


async def stop_one(fleet: Fleet, model: str, pids: list[int], chance: float) -> None:
    """SIGSTOP of one until it is taken for lost and a while longer, then SIGCONT: a zombie wakes. chance: 0..1, how
    much longer."""
    pid = pids[int(chance * len(pids))]
    os.kill(pid, signal.SIGSTOP)
    try:
        await fleet.gone(model, pid)
        await asyncio.sleep(HOLD_S[0] + chance * (HOLD_S[1] - HOLD_S[0]))
    finally:
        os.kill(pid, signal.SIGCONT)


LEAVERS = Blow("clients leave", nothing)
KILL = Blow("kill -9 of a worker", kill_one, kills=True)
KILL_ALL = Blow("kill -9 of all workers", kill_all, kills=True)
STOP = Blow("SIGSTOP, SIGCONT of a worker", stop_one, token_factor=5)
