"""Signs of life, and the end of an orphan: a supervised worker never outlives its supervisor."""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1


async def beat(send: Callable[[], Awaitable[None]], interval_s: float, wake: asyncio.Event) -> None:
    """Call `send` now, then every `interval_s` and whenever `wake` is set."""
    while True:
        wake.clear()
        await send()
        # Not wait_for: in Python 3.11 it loses a cancellation that comes together with the event.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(interval_s):
                await wake.wait()


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its supervisor ends, however that happens (Linux; elsewhere
    `leave_with_parent` notices within a second). Exits at once where the supervisor is gone already."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            log.warning("cannot follow the supervisor's death: %s", os.strerror(ctypes.get_errno()))
    if os.getppid() != parent_pid:
        raise SystemExit(1)


async def leave_with_parent(parent_pid: int, interval_s: float = 1.0) -> None:
    """End this process, with all that runs in it, once it has been handed to another parent."""
    while os.getppid() == parent_pid:
        await asyncio.sleep(interval_s)
    os._exit(1)
