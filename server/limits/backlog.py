"""The prompts that wait for one model, in tokens: how many there may be, how fast they are taken, how long they wait.

A prompt waits from its submission until a worker has accepted it. Its tokens are estimates (see estimate). The queue
itself bounds the number of requests; this bounds what they weigh.
"""

from collections import Counter, deque
from collections.abc import Callable

from schemas.errors import Overloaded, TooMuch

MIN_RETRY_AFTER_S = 1.0
MAX_RETRY_AFTER_S = 60.0
NUM_TAKEN = 128
"""How many of the last accepted prompts the rate is measured over."""


class Backlog:
    """clock: seconds, monotonic. max_tokens: what may wait; a single prompt may always, however long."""

    def __init__(self, model: str, max_tokens: int, clock: Callable[[], float]) -> None:
        self._model = model
        self._max_tokens = max_tokens
        self._clock = clock
        self._waiting: Counter[int] = Counter()
        """By priority."""
        self._taken: deque[tuple[float, int]] = deque(maxlen=NUM_TAKEN)
        """Of each prompt: how long none was taken before it although some waited, and its tokens."""
        self._since_s = 0.0
        """When the last one was taken, or the first of those that wait came."""

    @property
    def num_tokens(self) -> int:
        """What waits now."""
        return self._waiting.total()

    def add(self, num_tokens: int, priority: int = 0) -> None:
        """A prompt begins to wait. Raises Overloaded when there is no room for it."""
        waiting = self.num_tokens
        if waiting and waiting + num_tokens > self._max_tokens:
            message = f"About {waiting} tokens already wait for the model '{self._model}'; try again later."
            raise Overloaded(message, self.retry_after_s(num_tokens), TooMuch.QUEUE_TOKENS)
        if not waiting:
            self._since_s = self._clock()
        self._waiting[priority] += num_tokens

    def take(self, num_tokens: int, priority: int = 0) -> None:
        """A worker has accepted a prompt."""
        now_s = self._clock()
        self._taken.append((now_s - self._since_s, num_tokens))
        self._since_s = now_s
        self.remove(num_tokens, priority)

    def remove(self, num_tokens: int, priority: int = 0) -> None:
        """A prompt has left without being accepted."""
        self._waiting[priority] -= num_tokens

    def wait_s(self, priority: int) -> float:
        """How long a prompt that came now would wait for those before it; 0 while the rate is unknown."""
        rate = self.tokens_per_s()
        if not rate:
            return 0.0
        return sum(tokens for level, tokens in self._waiting.items() if level <= priority) / rate

    def retry_after_s(self, num_tokens: int) -> float:
        """When there should be room for so many more, at the rate at which tokens were taken lately: 1..60 s."""
        rate = self.tokens_per_s()
        if not rate:
            return MIN_RETRY_AFTER_S
        return bounded((self.num_tokens + num_tokens - self._max_tokens) / rate)

    def tokens_per_s(self) -> float:
        """The rate at which the last prompts were taken while some waited; 0 while it is unknown."""
        stalled_s = self._clock() - self._since_s if self.num_tokens else 0.0
        elapsed_s = sum(elapsed_s for elapsed_s, _ in self._taken) + stalled_s
        num_tokens = sum(num_tokens for _, num_tokens in self._taken)
        return num_tokens / elapsed_s if elapsed_s > 0 else 0.0


def bounded(retry_after_s: float) -> float:
    """What a client is told of when to come back."""
    return min(MAX_RETRY_AFTER_S, max(MIN_RETRY_AFTER_S, retry_after_s))
