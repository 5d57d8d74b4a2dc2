"""How much may be in flight at once: requests and bytes for the gateway, a smaller share for each tenant."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from schemas.errors import Overloaded, TooMuch

MAX_RETRY_AFTER_S = 60.0
MIN_RETRY_AFTER_S = 1.0


class Place:
    """What one request holds; `charge` adds the bytes of its body as they come."""

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self.size_bytes = 0

    def charge(self, size_bytes: int) -> None:
        """Hold this many bytes more. Raises Overloaded when all requests together hold too many."""
        self._admission.charge(size_bytes)
        self.size_bytes += size_bytes


class Admission:
    """Counts requests in flight and refuses at once what is too many.

    When to come back is estimated as the mean time of recent requests: about then one of those now running is done.
    max_of: how many requests of one tenant may be in flight; None: as many as of all. Lines of batches are not counted.
    """

    def __init__(
        self, max_in_flight: int, max_of: Callable[[str], int | None], max_bytes: int, clock: Callable[[], float]
    ) -> None:
        self._max_in_flight = max_in_flight
        self._max_of = max_of
        self._max_bytes = max_bytes
        self._clock = clock
        self._per_tenant: Counter[str] = Counter()
        self._size_bytes = 0
        self._mean_s = MIN_RETRY_AFTER_S

    @property
    def in_flight(self) -> int:
        """Requests that hold a place now."""
        return self._per_tenant.total()

    @contextmanager
    def place(self, tenant: str) -> Iterator[Place]:
        """Hold a place while a request is served. Raises Overloaded."""
        if self.in_flight >= self._max_in_flight:
            raise self._overloaded("Too many requests are in flight; try again later.", TooMuch.IN_FLIGHT)
        most = self._max_of(tenant)
        if most is not None and self._per_tenant[tenant] >= most:
            message = "Too many requests with this key are in flight; try again later."
            raise self._overloaded(message, TooMuch.CONCURRENCY)
        self._per_tenant[tenant] += 1
        start_s = self._clock()
        try:
            with self.body() as place:
                yield place
            self._mean_s += 0.1 * (self._clock() - start_s - self._mean_s)
        finally:
            self._per_tenant[tenant] -= 1
            if not self._per_tenant[tenant]:
                del self._per_tenant[tenant]

    @contextmanager
    def body(self) -> Iterator[Place]:
        """Hold the bytes of a body and no place."""
        place = Place(self)
        try:
            yield place
        finally:
            self._size_bytes -= place.size_bytes

    def charge(self, size_bytes: int) -> None:
        """Count bytes that a place holds. Raises Overloaded."""
        if self._size_bytes + size_bytes > self._max_bytes:
            message = "Too many bytes of requests are in flight; try again later."
            raise self._overloaded(message, TooMuch.BYTES_IN_FLIGHT)
        self._size_bytes += size_bytes

    def retry_after_s(self) -> float:
        """The estimate for a client that was refused, 1..60 s."""
        return min(max(self._mean_s, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)

    def _overloaded(self, message: str, what: TooMuch) -> Overloaded:
        return Overloaded(message, self.retry_after_s(), what)
