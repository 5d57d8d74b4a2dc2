"""The supervisor with real child processes: small programs that end in every way a worker can."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from server.supervise import MAX_FAILED_STARTS, SILENCE_LOOKS, Supervisor, WorkerCommand, WorkersFailed
from tests.fakes.clock import Clock

PATIENCE_S = 10.0
SLEEPS = "import time; time.sleep(60)"
IGNORES_SIGTERM = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
DRAINS = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); time.sleep(60)"


class Rig:
    """A supervisor whose pauses take no time, and what it did."""

    def __init__(self, *programs: str, silence_s: float = 3600.0) -> None:
        self.clock = Clock()
        self.pauses: list[float] = []
        self.deaths: list[int] = []
        self.ready: set[int] = set()
        self.seen_ready: set[int] = set()
        self.can_restart = asyncio.Event()
        self.can_restart.set()
        self.supervisor = Supervisor(
            [WorkerCommand("m", (sys.executable, "-S", "-c", program)) for program in programs],
            ready_pids=self._ready_pids,
            on_death=self.deaths.append,
            silence_s=silence_s,
            sleep=self._sleep,
            clock=self.clock,
        )
        self.life = asyncio.create_task(self.supervisor.run())

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await self.can_restart.wait()
        await asyncio.sleep(0)

    def _ready_pids(self) -> set[int]:
        self.seen_ready |= self.ready
        return self.ready

    def pids(self) -> list[int]:
        return self.supervisor.pids()

    async def until(self, condition) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                if self.life.done():
                    await self.life
                await asyncio.sleep(0.01)

    async def become_ready(self, num_workers: int = 1) -> list[int]:
        await self.until(lambda: len(self.pids()) == num_workers)
        self.ready |= set(self.pids())
        await asyncio.wait_for(self.supervisor.ready(), PATIENCE_S)
        return self.pids()


@pytest.fixture
async def rigs() -> AsyncIterator[list[Rig]]:
    rigs: list[Rig] = []
    yield rigs
    for rig in rigs:
        rig.supervisor.kill()
        rig.life.cancel()
        await asyncio.gather(rig.life, return_exceptions=True)


def start(rigs: list[Rig], *programs: str, silence_s: float = 3600.0) -> Rig:
    rigs.append(Rig(*programs, silence_s=silence_s))
    return rigs[-1]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def signal_mask(pid: int, field: str) -> int:
    """Which signals a process ignores (SigIgn) or handles (SigCgt): it has come as far as that."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(field)), 16)


async def fails(rig: Rig) -> WorkersFailed:
    with pytest.raises(WorkersFailed) as failed:
        await asyncio.wait_for(rig.life, PATIENCE_S)
    return failed.value


async def test_a_killed_worker_is_reported_and_another_started(rigs: list[Rig]) -> None:
    rig = start(rigs, SLEEPS)
    (pid,) = await rig.become_ready()
    rig.clock.advance(60)
    os.kill(pid, signal.SIGKILL)
    await rig.until(lambda: rig.pids() not in ([], [pid]))
    assert rig.deaths == [pid]
    assert rig.pauses == [0.5]


async def test_one_workers_death_leaves_the_others_alone(rigs: list[Rig]) -> None:
    rig = start(rigs, SLEEPS, SLEEPS)
    pids = await rig.become_ready(2)
    os.kill(pids[0], signal.SIGKILL)
    await rig.until(lambda: len(rig.deaths) == 1 and len(rig.pids()) == 2)
    assert pids[1] in rig.pids()


async def test_workers_that_die_early_wait_longer_each_time_and_are_forgiven_after_a_stable_run(
    rigs: list[Rig],
) -> None:
    rig = start(rigs, SLEEPS)
    for lived_s in (0, 0, 0, 60, 0):
        await rig.until(lambda: bool(rig.pids()) and rig.pids()[0] not in rig.deaths)
        (pid,) = rig.pids()
        rig.ready = {pid}
        await rig.until(lambda pid=pid: pid in rig.seen_ready)
        rig.clock.advance(lived_s)
        os.kill(pid, signal.SIGKILL)
        await rig.until(lambda pid=pid: pid in rig.deaths)
    await rig.until(lambda: len(rig.pauses) == 5)
    assert rig.pauses == [0.5, 1.0, 2.0, 0.5, 0.5]


async def test_a_worker_that_is_stopped_and_not_heard_of_is_killed_and_another_started(rigs: list[Rig]) -> None:
    rig = start(rigs, SLEEPS, SLEEPS, silence_s=0.3)
    silent, heard = await rig.become_ready(2)
    os.kill(silent, signal.SIGSTOP)
    rig.ready.discard(silent)
    await rig.until(lambda: silent in rig.deaths and len(rig.pids()) == 2)
    assert rig.deaths == [silent] and heard in rig.pids()
    assert rig.pauses == [0.5]


async def test_a_worker_that_is_heard_of_again_in_time_is_left_alone(rigs: list[Rig]) -> None:
    rig = start(rigs, SLEEPS, silence_s=0.3)
    looks: list[int] = []
    (pid,) = await rig.become_ready()

    def ready_pids() -> set[int]:
        """Not heard of for one look less than is too many, heard of once, and so on."""
        looks.append(pid)
        return {pid} if len(looks) % SILENCE_LOOKS == 0 else set()

    rig.supervisor._ready_pids = ready_pids
    await rig.until(lambda: len(looks) > 4 * SILENCE_LOOKS)
    assert rig.deaths == [] and rig.pids() == [pid]


async def test_a_worker_that_is_still_to_become_ready_may_take_as_long_as_it_likes(rigs: list[Rig]) -> None:
    rig = start(rigs, SLEEPS, SLEEPS, silence_s=0.03)
    await rig.until(lambda: len(rig.pids()) == 2)
    ready, loading = rig.pids()
    rig.ready = {ready}
    await rig.until(lambda: ready in rig.seen_ready)
    rig.ready = set()
    await rig.until(lambda: rig.deaths != [])
    assert rig.deaths == [ready] and is_alive(loading)


async def test_a_worker_that_never_gets_ready_is_given_up(rigs: list[Rig]) -> None:
    rig = start(rigs, "raise SystemExit(1)")
    assert (await fails(rig)).exit_code == 1
    assert len(rig.deaths) == MAX_FAILED_STARTS
    assert rig.pauses == [0.5, 1.0, 2.0, 4.0]


@pytest.mark.parametrize(("worker_code", "own_code"), [(2, 2), (3, 1)])
async def test_a_worker_that_cannot_start_at_all_ends_the_rest_at_once(
    rigs: list[Rig], tmp_path: Path, worker_code: int, own_code: int
) -> None:
    sign = tmp_path / "sign"
    waits = f"import os, time\nwhile not os.path.exists({str(sign)!r}): time.sleep(0.01)"
    rig = start(rigs, SLEEPS, f"{waits}\nraise SystemExit({worker_code})")
    await rig.until(lambda: len(rig.pids()) == 2)
    pids = rig.pids()
    sign.touch()
    assert (await fails(rig)).exit_code == own_code
    assert rig.pauses == []
    async with asyncio.timeout(PATIENCE_S):
        while any(is_alive(pid) for pid in pids):
            await asyncio.sleep(0.01)


async def test_a_drained_worker_is_replaced_without_a_pause(rigs: list[Rig]) -> None:
    rig = start(rigs, DRAINS)
    (pid,) = await rig.become_ready()
    await rig.until(lambda: signal_mask(pid, "SigCgt") & 1 << signal.SIGTERM - 1)
    os.kill(pid, signal.SIGTERM)
    await rig.until(lambda: rig.pids() not in ([], [pid]))
    assert rig.pauses == []


async def test_stop_drains_and_then_kills_what_is_left(rigs: list[Rig]) -> None:
    rig = start(rigs, SLEEPS, IGNORES_SIGTERM)
    pids = await rig.become_ready(2)
    await rig.until(lambda: any(signal_mask(pid, "SigIgn") & 1 << signal.SIGTERM - 1 for pid in pids))
    await rig.supervisor.stop(timeout_s=0.3)
    await asyncio.wait_for(rig.life, PATIENCE_S)
    assert sorted(rig.deaths) == sorted(pids)
    assert not any(is_alive(pid) for pid in pids)
    assert rig.pauses == []


async def test_stop_during_a_pause_starts_nothing_more(rigs: list[Rig]) -> None:
    rig = start(rigs, SLEEPS)
    rig.can_restart.clear()
    (pid,) = await rig.become_ready()
    os.kill(pid, signal.SIGKILL)
    await rig.until(lambda: rig.pauses == [0.5])
    await rig.supervisor.stop(timeout_s=1)
    rig.can_restart.set()
    await asyncio.wait_for(rig.life, PATIENCE_S)
    assert rig.deaths == [pid]


async def test_a_cancelled_supervisor_leaves_no_worker_behind(rigs: list[Rig]) -> None:
    rig = start(rigs, SLEEPS, SLEEPS)
    pids = await rig.become_ready(2)
    rig.life.cancel()
    await asyncio.gather(rig.life, return_exceptions=True)
    assert sorted(rig.deaths) == sorted(pids)
    assert not any(is_alive(pid) for pid in pids)


@pytest.mark.parametrize("num_turns", range(8))
async def test_a_worker_that_is_just_being_started_is_reaped_when_the_supervisor_is_cancelled(
    rigs: list[Rig], num_turns: int
) -> None:
    before = {child.pid for child in psutil.Process().children()}
    rig = start(rigs, SLEEPS)
    for _ in range(num_turns):
        await asyncio.sleep(0)
    rig.life.cancel()
    await asyncio.gather(rig.life, return_exceptions=True)
    assert {child.pid for child in psutil.Process().children()} <= before
    assert rig.pids() == []
