"""Tells the gateway, once a second, that this worker lives and what it holds; ends an orphan."""

import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1


async def beat(send: Callable[[], Awaitable[None]], interval_s: float) -> None:
    """Call `send` now and then every `interval_s`."""
    while True:
        await send()
        await asyncio.sleep(interval_s)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel end this process when its supervisor ends, however that happens.

    Linux only; elsewhere `parent_is_gone` is asked with each heartbeat. Exits at once where the parent is gone already.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            log.warning("cannot follow the supervisor's death: %s", os.strerror(ctypes.get_errno()))
    if parent_is_gone(parent_pid):
        raise SystemExit(1)


def parent_is_gone(parent_pid: int) -> bool:
    """Whether this process has been handed to another parent."""
    return os.getppid() != parent_pid
