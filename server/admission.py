"""How much may be in flight at once: a bound for the gateway, a smaller one for each tenant where there are several."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from schemas.errors import ErrorCode, Overloaded

MAX_RETRY_AFTER_S = 60.0


class Admission:
    """Counts requests in flight and refuses at once what is too many.

    When to come back is estimated as the mean time of recent requests: about then one of those now running is done.
    """

    def __init__(self, max_in_flight: int, max_per_tenant: int, clock: Callable[[], float]) -> None:
        self.max_in_flight = max_in_flight
        self.max_per_tenant = max_per_tenant
        self._clock = clock
        self._per_tenant: Counter[str] = Counter()
        self._mean_s = 1.0

    @property
    def in_flight(self) -> int:
        """Requests that hold a place now."""
        return self._per_tenant.total()

    @contextmanager
    def place(self, tenant: str) -> Iterator[None]:
        """Hold a place while a request is served. Raises Overloaded."""
        if self.in_flight >= self.max_in_flight:
            raise Overloaded("Too many requests are in flight; try again later.", self.retry_after_s())
        if self._per_tenant[tenant] >= self.max_per_tenant:
            message = "Too many requests with this key are in flight; try again later."
            raise Overloaded(message, self.retry_after_s(), ErrorCode.RATE_LIMIT_EXCEEDED)
        self._per_tenant[tenant] += 1
        start_s = self._clock()
        try:
            yield
            self._mean_s += 0.1 * (self._clock() - start_s - self._mean_s)
        finally:
            self._per_tenant[tenant] -= 1
            if not self._per_tenant[tenant]:
                del self._per_tenant[tenant]

    def retry_after_s(self) -> float:
        """The estimate for a client that was refused, 1..60 s."""
        return min(max(self._mean_s, 1.0), MAX_RETRY_AFTER_S)
