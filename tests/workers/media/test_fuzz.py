"""Thousands of damaged files: each one is tiles or a media error, and this process survives all of them.

A decode process may die of one; that is what it is for. The long runs are for the night: `make fuzz`.
"""

import asyncio
import os
import re
from collections.abc import Sequence

import psutil
import pytest

from schemas.errors import ErrorCode, MediaError
from tests.workers.media.mutations import clips, mutated, pictures
from workers.media.sandbox import Sandbox
from workers.media.types import ImageOptions, MediaKind, MediaOptions, VideoOptions

_LEAKS = re.compile(r"0x[0-9a-f]{6,}|/[a-z]+/|Traceback|Errno|BytesIO")
# Few files take a process with them; many would be a way to stop a server.
_MAX_LOST_SHARE = 0.01


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=(pytest.mark.slow, pytest.mark.timeout(3600)))])
async def test_damaged_pictures(count: int) -> None:
    await fuzz(pictures(), count, ImageOptions(28, max_tiles=4), MediaKind.IMAGE)


@pytest.mark.parametrize("count", [100, pytest.param(1_000, marks=(pytest.mark.slow, pytest.mark.timeout(3600)))])
async def test_damaged_clips(count: int) -> None:
    await fuzz(clips(), count, VideoOptions(28, 4), MediaKind.VIDEO)


async def fuzz(seeds: Sequence[bytes], count: int, options: MediaOptions, kind: MediaKind) -> None:
    sandbox = Sandbox(2)
    await sandbox.start()
    fds = len(os.listdir("/proc/self/fd"))
    numbers = iter(range(count))
    outcomes: dict[str, int] = {}

    async def work() -> None:
        for number in numbers:
            try:
                tiles, _ = await sandbox.decode(mutated(seeds, number), options, kind)
                assert tiles.shape[1:] == (28, 28, 3), number
                outcome = "decoded"
            except MediaError as error:
                assert error.code in ErrorCode and f"{kind}" in error.code.value, number
                assert not _LEAKS.search(error.message), number
                outcome = error.code.value
            outcomes[outcome] = outcomes.get(outcome, 0) + 1

    try:
        await asyncio.gather(work(), work())
        assert sum(outcomes.values()) == count
        assert outcomes["decoded"] > 0 and len(outcomes) > 2, outcomes
        assert sandbox.num_lost <= max(1, count * _MAX_LOST_SHARE), outcomes
    finally:
        await sandbox.close()
    assert len(os.listdir("/proc/self/fd")) <= fds
    assert not psutil.Process().children()
