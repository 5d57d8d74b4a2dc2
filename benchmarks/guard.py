"""Nothing that a benchmark starts outlives it, also where it is killed and can tidy up no more."""

import contextlib
import subprocess
from collections.abc import Iterator

_UNTIL_END_OF_INPUT = "read _; kill -KILL 0"


@contextlib.contextmanager
def dying_with_us() -> Iterator[int]:
    """A process group, by its id, for what is started inside (Popen's `process_group`). All of it is killed at the end.

    It is killed as well when this process ends before that, however it does: its guard then reads the end of a pipe
    that only we hold.
    """
    guard = subprocess.Popen(["sh", "-c", _UNTIL_END_OF_INPUT], stdin=subprocess.PIPE, process_group=0)
    assert guard.stdin is not None
    try:
        yield guard.pid
    finally:
        guard.stdin.close()
        guard.wait()
