"""The running loop's clock, held still; only the standard library's loop lets it be replaced."""

import asyncio
from collections.abc import Callable

import pytest


def hold_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Returns what moves the clock on by so many seconds."""
    loop = asyncio.get_running_loop()
    now_s = loop.time()

    def advance(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    monkeypatch.setattr(loop, "time", lambda: now_s)
    return advance


async def turns() -> None:
    """Let the loop do all that is due."""
    for _ in range(10):
        await asyncio.sleep(0)
