"""Media by key, least recently used out first, within a bound of bytes."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

from workers.media.types import PreparedMedia


class Sized(Protocol):
    """Anything that knows its weight."""

    @property
    def size_bytes(self) -> int: ...


_V = TypeVar("_V", bound=Sized)


class BoundedCache(Generic[_V]):
    """Keys begin with the tenant: what one tenant sent never answers another. One event loop, no locks."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._entries: OrderedDict[Hashable, _V] = OrderedDict()
        self.size_bytes = 0
        self.num_hits = 0
        self.num_misses = 0

    def get(self, key: Hashable) -> _V | None:
        value = self._entries.get(key)
        if value is None:
            self.num_misses += 1
            return None
        self._entries.move_to_end(key)
        self.num_hits += 1
        return value

    def put(self, key: Hashable, value: _V) -> None:
        """Keeps it if it fits at all; drops the oldest for it."""
        self.drop(key)
        if value.size_bytes > self._capacity_bytes:
            return
        self._entries[key] = value
        self.size_bytes += value.size_bytes
        while self.size_bytes > self._capacity_bytes:
            self.drop(next(iter(self._entries)))

    def drop(self, key: Hashable) -> None:
        """Forget it, if it is there."""
        value = self._entries.pop(key, None)
        if value is not None:
            self.size_bytes -= value.size_bytes

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)


class MediaCache(BoundedCache[PreparedMedia]):
    """Prepared media by (tenant, digest)."""
