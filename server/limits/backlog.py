"""The prompts that wait for one model, in tokens: how many there may be, and how fast they are taken.

A prompt waits from its submission until a worker has accepted it. Its tokens are estimates (see estimate). The queue
itself bounds the number of requests; this bounds what they weigh.
"""

from collections import deque
from collections.abc import Callable

from schemas.errors import Overloaded

MIN_RETRY_AFTER_S = 1.0
MAX_RETRY_AFTER_S = 60.0
NUM_TAKEN = 64
"""How many of the last accepted prompts the rate is measured over."""


class Backlog:
    """clock: seconds, monotonic. max_tokens: what may wait; a single prompt may always, however long."""

    def __init__(self, model: str, max_tokens: int, clock: Callable[[], float]) -> None:
        self._model = model
        self._max_tokens = max_tokens
        self._clock = clock
        self._taken: deque[tuple[float, int]] = deque(maxlen=NUM_TAKEN)
        self.num_tokens = 0
        """What waits now."""

    def add(self, num_tokens: int) -> None:
        """A prompt begins to wait. Raises Overloaded when there is no room for it."""
        if self.num_tokens and self.num_tokens + num_tokens > self._max_tokens:
            message = f"About {self.num_tokens} tokens already wait for the model '{self._model}'; try again later."
            raise Overloaded(message, self.retry_after_s(num_tokens))
        self.num_tokens += num_tokens

    def take(self, num_tokens: int) -> None:
        """A worker has accepted a prompt."""
        self.remove(num_tokens)
        self._taken.append((self._clock(), num_tokens))

    def remove(self, num_tokens: int) -> None:
        """A prompt has left without being accepted."""
        self.num_tokens -= num_tokens

    def retry_after_s(self, num_tokens: int) -> float:
        """When there should be room for so many more, at the rate at which tokens were taken lately: 1..60 s."""
        rate = self.tokens_per_s()
        if not rate:
            return MIN_RETRY_AFTER_S
        return min(MAX_RETRY_AFTER_S, max(MIN_RETRY_AFTER_S, (self.num_tokens + num_tokens - self._max_tokens) / rate))

    def tokens_per_s(self) -> float:
        """The rate at which the last prompts were taken; 0 while it is unknown."""
        if len(self._taken) < 2:
            return 0.0
        elapsed_s = self._clock() - self._taken[0][0]
        # What was taken at the beginning of the interval waited before it.
        num_tokens = sum(tokens for _, tokens in self._taken) - self._taken[0][1]
        return num_tokens / elapsed_s if elapsed_s > 0 else 0.0
