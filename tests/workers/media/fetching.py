"""One download against the local origin, and what it fails with."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from schemas.errors import ErrorCode, MediaError
from tests.workers.media.origin import Origin
from workers.media.fetch import Fetcher
from workers.media.guard import MediaPolicy
from workers.media.types import MediaKind


@asynccontextmanager
async def running(fetcher: Fetcher) -> AsyncIterator[Fetcher]:
    await fetcher.start()
    try:
        yield fetcher
    finally:
        await fetcher.close()


async def fetch(origin: Origin, url: str, policy: MediaPolicy | None = None, **limits: float) -> bytes:
    async with running(origin.fetcher(policy, **limits)) as fetcher:
        return await fetcher.fetch(url, MediaKind.IMAGE)


async def fails(origin: Origin, url: str, policy: MediaPolicy | None = None, **limits: float) -> ErrorCode:
    """The code; and the message gives nothing away."""
    with pytest.raises(MediaError) as failed:
        await fetch(origin, url, policy, **limits)
    assert not re.search(r"0x[0-9a-f]{6,}|\d+\.\d+\.\d+\.\d+|example|aiohttp|/etc|Traceback", failed.value.message)
    return failed.value.code
