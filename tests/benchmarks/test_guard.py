"""What a benchmark starts ends with it, killed or not."""

import subprocess
import sys
from pathlib import Path

import psutil

from benchmarks.guard import dying_with_us

PATIENCE_S = 20.0
ROOT = Path(__file__).parents[2]
DRIVER = """
import subprocess, sys
from benchmarks.guard import dying_with_us
with dying_with_us() as group:
    print(group, subprocess.Popen(["sleep", "1000"], process_group=group).pid, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_driver_started_is_killed_too() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as driver:
        assert driver.stdout is not None
        left = [psutil.Process(int(pid)) for pid in driver.stdout.readline().split()]
        assert len(left) == 2
        driver.kill()
    gone, alive = psutil.wait_procs(left, PATIENCE_S)
    assert (len(gone), alive) == (2, [])


def test_nothing_of_the_group_is_left_behind_at_the_end() -> None:
    with dying_with_us() as group:
        sleeper = subprocess.Popen(["sleep", "1000"], process_group=group)
        assert sleeper.poll() is None
    assert sleeper.wait(PATIENCE_S) == -9
