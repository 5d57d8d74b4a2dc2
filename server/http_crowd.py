"""How many connections there may be, in all and from one address."""

import resource
from collections import Counter

RESERVE = 256
"""Connections beyond the bound that still get an answer: 503, or that of a probe."""
OTHER_FILES = 512
"""What a gateway opens besides connections."""


class Crowd:
    """Counts connections by peer address."""

    def __init__(self, max_connections: int, max_per_peer: int) -> None:
        self._max_connections = max_connections
        self._max_per_peer = max_per_peer
        self._per_peer: Counter[str] = Counter()
        self.total = 0
        """Connections that are open now."""

    def enter(self, peer: str) -> None:
        """One more from this address."""
        self._per_peer[peer] += 1
        self.total += 1

    def leave(self, peer: str) -> None:
        """One less."""
        self.total -= 1
        self._per_peer[peer] -= 1
        if not self._per_peer[peer]:
            del self._per_peer[peer]

    def is_full(self, peer: str) -> bool:
        """Whether there are more than there may be, so that the last one gets 503."""
        return self.total > self._max_connections or self._per_peer[peer] > self._max_per_peer

    def is_overfull(self, peer: str) -> bool:
        """Whether there are so many more that the last one gets no answer at all."""
        too_many = self.total - self._max_connections > RESERVE
        return too_many or self._per_peer[peer] - self._max_per_peer > RESERVE


def fit_to_open_files(max_connections: int) -> int:
    """Let this process open enough files for so many connections; returns how many it can have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + RESERVE + OTHER_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    return (
        max_connections
        if soft == resource.RLIM_INFINITY
        else max(1, min(max_connections, soft - RESERVE - OTHER_FILES))
    )
