"""Prepared media by content, least recently used out first, within a bound of bytes."""

from collections import OrderedDict

from workers.media.types import PreparedMedia

Key = tuple[str, bytes]


class MediaCache:
    """Keys are (tenant, digest): what one tenant sent never answers another. One event loop, no locks."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._entries: OrderedDict[Key, PreparedMedia] = OrderedDict()
        self.size_bytes = 0
        self.num_hits = 0
        self.num_misses = 0

    def get(self, key: Key) -> PreparedMedia | None:
        media = self._entries.get(key)
        if media is None:
            self.num_misses += 1
            return None
        self._entries.move_to_end(key)
        self.num_hits += 1
        return media

    def put(self, key: Key, media: PreparedMedia) -> None:
        """Keeps it if it fits at all; drops the oldest for it."""
        self._drop(key)
        if media.size_bytes > self._capacity_bytes:
            return
        self._entries[key] = media
        self.size_bytes += media.size_bytes
        while self.size_bytes > self._capacity_bytes:
            self._drop(next(iter(self._entries)))

    def __len__(self) -> int:
        return len(self._entries)

    def _drop(self, key: Key) -> None:
        media = self._entries.pop(key, None)
        if media is not None:
            self.size_bytes -= media.size_bytes
