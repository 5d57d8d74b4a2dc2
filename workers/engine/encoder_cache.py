"""Which visual embeddings are kept: bookkeeping by content key. The embeddings themselves are the runner's.

An entry is pending from the step that plans to encode it until that step is done, and in use while a sequence is in the
middle of its span. All others wait in the order of their last use and make room when something new must be encoded;
what they were is handed out as a list of keys to drop. Knows no tensors.
"""

from collections import OrderedDict
from collections.abc import Iterable


class EncoderCache:
    """Keeps embeddings up to `capacity_bytes`, each token of which takes `token_bytes`.

    One item larger than the capacity is kept while it is in use, and no longer.
    """

    def __init__(self, capacity_bytes: int, token_bytes: int) -> None:
        if capacity_bytes < 0 or token_bytes < 1:
            raise ValueError(f"capacity_bytes {capacity_bytes} or token_bytes {token_bytes} is too small")
        self.capacity_bytes = capacity_bytes
        self._token_bytes = token_bytes
        self._sizes: dict[bytes, int] = {}  # every entry
        self._users: dict[bytes, set[str]] = {}  # those in use, by request id
        self._pending: set[bytes] = set()
        self._idle: OrderedDict[bytes, None] = OrderedDict()  # neither in use nor pending, oldest first
        self._dropped: list[bytes] = []
        self._size_bytes = 0
        self._idle_bytes = 0

    def __contains__(self, key: bytes) -> bool:
        return key in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def is_pending(self, key: bytes) -> bool:
        """Whether an entry is planned, but not yet encoded."""
        return key in self._pending

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def can_add(self, num_tokens: int) -> bool:
        """Whether an item fits beside those in use and pending. Where there are none, every item does."""
        busy_bytes = self._size_bytes - self._idle_bytes
        return busy_bytes == 0 or busy_bytes + num_tokens * self._token_bytes <= self.capacity_bytes

    def add(self, key: bytes, num_tokens: int) -> None:
        """Enter an item that the step being planned will encode; idle ones make room. Ask `can_add` before."""
        if key in self._sizes:
            raise ValueError("the key is already in the cache")
        self._sizes[key] = num_tokens * self._token_bytes
        self._size_bytes += self._sizes[key]
        self._pending.add(key)
        self._evict()

    def acquire(self, key: bytes, request_id: str) -> None:
        """Keep an entry for a request until `release`. Raises KeyError when there is no such entry."""
        size_bytes = self._sizes[key]
        self._users.setdefault(key, set()).add(request_id)
        if key in self._idle:
            del self._idle[key]
            self._idle_bytes -= size_bytes

    def release(self, key: bytes, request_id: str) -> None:
        """The request is past this item. Nothing happens where it did not hold it."""
        users = self._users.get(key)
        if users is None or request_id not in users:
            return
        users.remove(request_id)
        if not users:
            del self._users[key]
            self._settle(key)

    def complete(self, keys: Iterable[bytes]) -> None:
        """The step is done: its items are encoded."""
        for key in keys:
            self._pending.remove(key)
            self._settle(key)

    def discard(self, keys: Iterable[bytes], dropped: Iterable[bytes]) -> None:
        """The step failed: forget its items, whoever uses them, and report anew what its plan said to drop."""
        self._dropped.extend(dropped)
        for key in keys:
            self._pending.remove(key)
            self._users.pop(key, None)
            self._drop(key)

    def take_dropped(self) -> tuple[bytes, ...]:
        """Keys that left the cache since the last call: the owner of the embeddings lets them go."""
        dropped = tuple(dict.fromkeys(self._dropped))
        self._dropped.clear()
        return dropped

    def check(self) -> None:
        """Raise AssertionError unless every entry is accounted for exactly once."""
        busy = self._users.keys() | self._pending
        idle_bytes = sum(self._sizes[key] for key in self._idle)
        sound = (
            not busy & self._idle.keys()
            and busy | self._idle.keys() == self._sizes.keys()
            and all(self._users.values())
            and (self._size_bytes, self._idle_bytes) == (sum(self._sizes.values()), idle_bytes)
            and (self._size_bytes <= self.capacity_bytes or not self._idle)
        )
        if not sound:
            raise AssertionError("encoder cache: entries miscounted")

    def _settle(self, key: bytes) -> None:
        """An entry that nobody needs any more becomes the most recent idle one."""
        if key not in self._users and key not in self._pending:
            self._idle[key] = None
            self._idle_bytes += self._sizes[key]
            self._evict()

    def _evict(self) -> None:
        while self._size_bytes > self.capacity_bytes and self._idle:
            key, _ = self._idle.popitem(last=False)
            self._idle_bytes -= self._sizes[key]
            self._drop(key)

    def _drop(self, key: bytes) -> None:
        self._size_bytes -= self._sizes.pop(key)
        self._dropped.append(key)
