"""What one API key may take."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """None: not limited. min_priority: the smallest priority value, hence the soonest turn, that its requests get."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrency: int | None = None
    min_priority: int | None = None


UNLIMITED = KeyLimits()
