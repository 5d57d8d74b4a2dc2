"""Rate limits that several gateways share: each counts by itself, and they tell each other what was taken.

No request waits for this. What passes at several gateways between two tellings is more than one of them would have let
through, and is a debt in the shared bucket, which later requests wait for at all of them.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from schemas.errors import Unavailable
from server.limits.bucket import Drawn
from server.limits.rates import RateLimits

TELL_S = 0.1

logger = logging.getLogger(__name__)


class SharedBuckets(Protocol):
    """Token buckets that all gateways draw from, by name."""

    async def draw(self, drawn: Mapping[str, Drawn]) -> list[float]:
        """Take what was drawn here from the shared buckets, all at once; their levels, in the same order. Raises
        Unavailable."""
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...


async def share(rates: RateLimits, shared: SharedBuckets, clock: Callable[[], float]) -> None:
    """Tell what was drawn, and learn what is left, of the buckets that were asked since the last time. Raises
    Unavailable; then what was drawn stays this gateway's own affair."""
    buckets = rates.take_asked()
    if not buckets:
        return
    levels = await shared.draw({name: bucket.tell(clock()) for name, bucket in buckets.items()})
    for bucket, level in zip(buckets.values(), levels, strict=True):
        bucket.adopt(level, clock())


async def keep_sharing(rates: RateLimits, shared: SharedBuckets, clock: Callable[[], float]) -> None:
    """Time and again, until cancelled. While nothing can be told, each gateway goes by its own count."""
    is_reached = True
    while True:
        await asyncio.sleep(TELL_S)
        try:
            await share(rates, shared, clock)
            is_reached = True
        except Unavailable:
            if is_reached:
                logger.warning("rate limits are not shared for now; each gateway counts by itself")
            is_reached = False
