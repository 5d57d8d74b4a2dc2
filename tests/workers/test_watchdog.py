"""What the watchdog ends and what it leaves alone. Hangs are real ones, in processes of their own."""

import asyncio
import subprocess
import sys
from types import SimpleNamespace

import pytest

from schemas.control import STALLED
from tests.fakes.clock import Clock
from tests.fakes.scripted_backend import ScriptedHandler
from workers import watchdog
from workers.handlers.base import FatalError, Stats
from workers.watchdog import Watchdog

LIMIT_S = 8.0
PATIENCE_S = 60.0


class Busy(ScriptedHandler):
    """A handler that is at something, or at nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way: dict[str, int] = {}

    def stats(self) -> Stats:
        return Stats(0, 0, 0.0, under_way=dict(self.under_way), longest_step_s=3 * LIMIT_S)


class Rig:
    """A watchdog that looks once a second."""

    def __init__(self, limit_s: float | None = LIMIT_S) -> None:
        self.clock = Clock()
        self.handler = Busy()
        self.watchdog = Watchdog(self.handler, limit_s, self.clock)
        self.watchdog.look()

    def looks(self, num_seconds: int) -> list[str]:
        """What is found to hang in so many seconds."""
        found = []
        for _ in range(num_seconds):
            self.clock.advance(1.0)
            found.append(self.watchdog.look())
        return [name for name in found if name]


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_what_does_not_get_on_for_the_limit_hangs(rig: Rig) -> None:
    rig.handler.under_way = {"step": 7}
    assert rig.looks(8) == []
    assert rig.looks(1) == ["step"]


async def test_what_gets_on_does_not_hang_however_long_it_works(rig: Rig) -> None:
    for number in range(20):
        rig.handler.under_way = {"step": number}
        assert rig.looks(6) == []


async def test_who_has_nothing_to_do_does_not_hang(rig: Rig) -> None:
    assert rig.looks(100) == []


async def test_idle_times_between_begin_the_time_anew(rig: Rig) -> None:
    for _ in range(5):
        rig.handler.under_way = {"step": 7}
        assert rig.looks(6) == []
        rig.handler.under_way = {}
        assert rig.looks(1) == []


async def test_each_thing_that_is_under_way_is_watched_for_itself(rig: Rig) -> None:
    for number in range(8):
        rig.handler.under_way = {"step": number, "tower": 1}
        assert rig.looks(1) == []
    rig.handler.under_way = {"step": 9, "tower": 1}
    assert rig.looks(1) == ["tower"]


async def test_time_in_which_the_process_stood_still_is_not_held_against_it(rig: Rig) -> None:
    rig.handler.under_way = {"step": 7}
    assert rig.looks(2) == []
    rig.clock.advance(3600.0)
    assert rig.watchdog.look() is None
    assert rig.looks(4) == []


async def test_without_a_limit_it_is_as_long_as_the_backend_expects() -> None:
    rig = Rig(limit_s=None)
    rig.handler.under_way = {"step": 7}
    assert rig.looks(24) == []
    assert rig.looks(1) == ["step"]


PROGRAM = """
import asyncio, ctypes, logging, sys, threading, time
from tests.workers.test_watchdog import Busy
from workers.watchdog import Watchdog

def hang_here(): {hang}

async def main():
    logging.basicConfig(format="%(levelname)s %(message)s")
    handler = Busy()
    handler.under_way = {under_way}
    watching = asyncio.create_task(Watchdog(handler, {limit_s}).watch())
    await asyncio.sleep(0)
    {begin}
    try:
        await asyncio.wait_for(asyncio.shield(handler.fatal), 60)
    except Exception as error:
        print(type(error).__name__, error)
        sys.stdout.flush()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    sys.exit(5)

asyncio.run(main())
"""


def run(hang: str, begin: str, limit_s: float, under_way: str = "{}") -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(hang=hang, begin=begin, limit_s=limit_s, under_way=under_way)
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def test_a_thread_that_hangs_is_told_of_with_all_stacks_and_makes_the_backend_a_broken_one() -> None:
    begin = "threading.Thread(target=hang_here, name='engine', daemon=True).start()"
    ended = run("threading.Event().wait()", begin, limit_s=3, under_way="{'a step': 1}")
    assert (ended.returncode, ended.stdout) == (5, f"{FatalError.__name__} {STALLED}\n")
    lines = [line for line in ended.stderr.splitlines() if line.startswith("CRITICAL")]
    assert lines == ["CRITICAL a step has not got on for 3 s: this worker ends. Where its threads are:"]
    assert "in hang_here" in ended.stderr


@pytest.mark.parametrize(
    "hang",
    ["time.sleep(3600)", "ctypes.PyDLL(None).sleep(3600)"],
    ids=["an event loop that stands still", "a library that keeps the interpreter's lock"],
)
def test_a_process_in_which_nothing_of_ours_runs_any_more_is_ended_with_all_stacks(hang: str) -> None:
    ended = run(hang, begin="hang_here()", limit_s=0.5)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr and "in hang_here" in ended.stderr


async def test_a_watchdog_that_is_taken_away_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[str] = []
    timer = SimpleNamespace(
        dump_traceback_later=lambda limit_s, **_: timers.append(f"in {limit_s} s"),
        cancel_dump_traceback_later=lambda: timers.append("never"),
    )
    monkeypatch.setattr(watchdog, "faulthandler", timer)
    watching = asyncio.create_task(Watchdog(Busy(), LIMIT_S).watch())
    await asyncio.sleep(0)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    assert timers == [f"in {LIMIT_S} s", "never"]
