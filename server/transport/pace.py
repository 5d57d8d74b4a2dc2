"""How fast a model's waiting jobs are taken, for an estimate of when there is room again."""

from collections import deque

MIN_RETRY_AFTER_S = 1.0
MAX_RETRY_AFTER_S = 60.0
REMEMBERED = 64


class Pace:
    """When the last jobs of one model were taken; the caller passes the time in, in seconds."""

    def __init__(self) -> None:
        self._taken_at: deque[float] = deque(maxlen=REMEMBERED)

    def saw_one_taken(self, now: float) -> None:
        """A worker took a job."""
        self._taken_at.append(now)

    def retry_after_s(self, num_waiting: int, now: float) -> float:
        """How long so many waiting jobs need at the rate at which jobs were taken lately."""
        if len(self._taken_at) < 2 or now <= self._taken_at[0]:
            return MIN_RETRY_AFTER_S
        rate = len(self._taken_at) / (now - self._taken_at[0])
        return min(MAX_RETRY_AFTER_S, max(MIN_RETRY_AFTER_S, num_waiting / rate))
