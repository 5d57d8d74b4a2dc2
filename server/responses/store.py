"""Responses that later requests may go on from, in memory: bounded for each tenant and for all; the least used go.

An entry holds its whole conversation, so that it needs no other entry; what conversations have in common is in memory
once and is counted once for each. Nothing survives the process.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.openai.response_answers import Response
from schemas.openai.response_items import Item

MAX_BYTES = 64 * 1024 * 1024
ALL_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """Of each tenant: responses, bytes, and seconds since the last use. all_bytes: of all tenants together."""

    max_responses: int = 1000
    max_bytes: int = MAX_BYTES
    max_age_s: float = 24 * 3600.0
    all_bytes: int = ALL_BYTES

    @classmethod
    def for_bodies(cls, max_body_bytes: int) -> "StoreLimits":
        """Room for at least two bodies of the largest size."""
        max_bytes = max(MAX_BYTES, 2 * max_body_bytes)
        return cls(max_bytes=max_bytes, all_bytes=max(ALL_BYTES, 2 * max_bytes))


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response that has ended. `items` is its conversation, its output included; `given` its own input, as listed."""

    response: Response
    items: Sequence[Item]
    given: Sequence[dict[str, Any]]
    size_bytes: int


class ResponseStore:
    """What is kept of each tenant's responses, by id. A tenant never sees another's."""

    def __init__(self, limits: StoreLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._shelves: dict[str, _Shelf] = {}

    @property
    def max_bytes(self) -> int:
        """How large a conversation may be that is to be kept."""
        return min(self._limits.max_bytes, self._limits.all_bytes)

    @property
    def size_bytes(self) -> int:
        """What is kept of all tenants."""
        return sum(shelf.size_bytes for shelf in self._shelves.values())

    def __len__(self) -> int:
        return sum(map(len, self._shelves.values()))

    def put(self, tenant: str, entry: StoredResponse) -> None:
        """Keep a response as the tenant's latest. It is the last to go, so that one alone may be above the limits."""
        self._drop_old()
        shelf = self._shelves.setdefault(tenant, _Shelf())
        shelf.add(entry, self._clock())
        limits = self._limits
        while len(shelf) > max(1, limits.max_responses) or (len(shelf) > 1 and shelf.size_bytes > limits.max_bytes):
            shelf.drop_first()
        while len(self) > 1 and self.size_bytes > limits.all_bytes:
            min(self._shelves.values(), key=lambda shelf: shelf.first_used_s).drop_first()
            self._drop_empty()

    def get(self, tenant: str, response_id: str) -> StoredResponse | None:
        """A tenant's response, which counts as used now; None if it is not, or no longer, kept."""
        self._drop_old()
        shelf = self._shelves.get(tenant)
        return shelf.use(response_id, self._clock()) if shelf is not None else None

    def delete(self, tenant: str, response_id: str) -> bool:
        """Forget a response; whether there was one."""
        self._drop_old()
        shelf = self._shelves.get(tenant)
        is_there = shelf is not None and shelf.drop(response_id)
        self._drop_empty()
        return is_there

    def _drop_old(self) -> None:
        oldest_s = self._clock() - self._limits.max_age_s
        for shelf in self._shelves.values():
            shelf.drop_before(oldest_s)
        self._drop_empty()

    def _drop_empty(self) -> None:
        self._shelves = {tenant: shelf for tenant, shelf in self._shelves.items() if shelf.entries}


class _Shelf:
    """One tenant's, the least recently used first, each with the time of its last use."""

    def __init__(self) -> None:
        self.entries: OrderedDict[str, tuple[StoredResponse, float]] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def first_used_s(self) -> float:
        return next(iter(self.entries.values()))[1]

    def add(self, entry: StoredResponse, now_s: float) -> None:
        self.entries[entry.response.id] = (entry, now_s)
        self.size_bytes += entry.size_bytes

    def use(self, response_id: str, now_s: float) -> StoredResponse | None:
        if response_id not in self.entries:
            return None
        entry, _ = self.entries[response_id]
        self.entries[response_id] = (entry, now_s)
        self.entries.move_to_end(response_id)
        return entry

    def drop(self, response_id: str) -> bool:
        if response_id not in self.entries:
            return False
        self.size_bytes -= self.entries.pop(response_id)[0].size_bytes
        return True

    def drop_first(self) -> None:
        self.drop(next(iter(self.entries)))

    def drop_before(self, oldest_s: float) -> None:
        while self.entries and self.first_used_s < oldest_s:
            self.drop_first()
