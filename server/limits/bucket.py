"""A token bucket: so much a minute, in bursts of up to a minute's worth. Knows no clock; its owner tells the time."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was taken from a bucket for a while, given back where negative, and what it is left with."""

    amount: float
    capacity: int
    level: float


class TokenBucket:
    """Fills at a steady rate up to `per_minute`. It can be overdrawn, by what turned out dearer than was thought; then
    nothing is to be had until the debt is paid."""

    def __init__(self, per_minute: int, now_s: float) -> None:
        self._capacity = per_minute
        self._level = float(per_minute)
        self._at_s = now_s
        self._untold = 0.0

    @property
    def capacity(self) -> int:
        """What it holds at most, and what flows in within a minute."""
        return self._capacity

    def resize(self, per_minute: int, now_s: float) -> None:
        """Give it another rate; what was left is left, as far as it fits, and a debt stays."""
        self._level = min(self._refill(now_s), per_minute)
        self._capacity = per_minute

    def remaining(self, now_s: float) -> int:
        """What could be taken now, not negative."""
        return max(0, math.floor(self._refill(now_s)))

    def take(self, amount: float, now_s: float) -> None:
        """Take an amount, whether it is there or not; a negative one is given back."""
        self._untold += amount
        self._level = min(self._capacity, self._refill(now_s) - amount)

    def wait_s(self, amount: float, now_s: float) -> float:
        """Seconds until the amount is there: 0 if it is now."""
        return max(0.0, amount - self._refill(now_s)) * 60.0 / self._capacity

    def full_in_s(self, now_s: float) -> float:
        """Seconds until the bucket is full if nothing more is taken."""
        return self.wait_s(self._capacity, now_s)

    def tell(self, now_s: float) -> Drawn:
        """What was taken since the last telling, for a bucket that others draw from as well."""
        amount, self._untold = self._untold, 0.0
        return Drawn(amount, self._capacity, self._refill(now_s))

    def adopt(self, level: float, now_s: float) -> None:
        """Go by the level of that bucket, less what was taken here since the telling."""
        self._refill(now_s)
        self._level = min(self._capacity, level - self._untold)

    def _refill(self, now_s: float) -> float:
        flown_in = max(0.0, now_s - self._at_s) * self._capacity / 60.0
        self._level = min(self._capacity, self._level + flown_in)
        self._at_s = max(self._at_s, now_s)
        return self._level
