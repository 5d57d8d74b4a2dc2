"""What every job passes on its way to the queue: its key's priority and tokens a minute, and its model's backlog."""

from collections.abc import Callable

import msgspec

from schemas.events import Accepted
from schemas.jobs import Job
from server.limits.backlog import Backlog
from server.limits.estimate import PromptEstimator, PromptSize, size_of
from server.limits.key_limits import KeyLimits
from server.limits.rates import RateLimits


class Gate:
    """max_queue_tokens: prompt tokens that may wait for one model, see Backlog. clock: seconds, monotonic."""

    def __init__(
        self,
        limits_of: Callable[[str], KeyLimits],
        rates: RateLimits,
        max_queue_tokens: int,
        clock: Callable[[], float],
    ) -> None:
        self._limits_of = limits_of
        self._rates = rates
        self._max_queue_tokens = max_queue_tokens
        self._clock = clock
        self._estimator = PromptEstimator()
        self._backlogs: dict[str, Backlog] = {}

    def admit(self, job: Job) -> Job:
        """The job with the priority that its key may have."""
        least = self._limits_of(job.tenant).min_priority
        return job if least is None or job.priority >= least else msgspec.structs.replace(job, priority=least)

    def enter(self, job: Job) -> "Passage":
        """Let a live job wait for its turn. Raises Overloaded, and then nothing is held."""
        size = size_of(job)
        prompt_tokens = self._estimator.estimate(job.model, size)
        backlog = self._backlogs.setdefault(job.model, Backlog(job.model, self._max_queue_tokens, self._clock))
        backlog.add(prompt_tokens)
        try:
            # A job that generates nothing is none of the key's tokens.
            cost = prompt_tokens + job.n * (job.sampling.max_tokens or 0) if job.n else 0
            reserved = self._rates.reserve_tokens(job.tenant, cost)
        except BaseException:
            backlog.remove(prompt_tokens)
            raise
        return Passage(job, size, prompt_tokens, reserved, backlog, self)

    def waiting_tokens(self) -> dict[str, int]:
        """Model -> prompt tokens that wait for it now, as estimated."""
        return {model: backlog.num_tokens for model, backlog in self._backlogs.items()}

    def learn(self, job: Job, size: PromptSize, accepted: Accepted) -> None:
        """A worker has counted a prompt."""
        self._estimator.learn(job.model, size, accepted)

    def settle(self, job: Job, reserved: int, used: int) -> None:
        """A job has ended and cost so many tokens."""
        self._rates.settle(job.tenant, reserved, used)


class Passage:
    """One live job between its submission and its end."""

    def __init__(
        self, job: Job, size: PromptSize, prompt_tokens: int, reserved: int, backlog: Backlog, gate: Gate
    ) -> None:
        self._job = job
        self._size = size
        self._estimate = prompt_tokens
        self._reserved = reserved
        self._backlog = backlog
        self._gate = gate
        self._prompt_tokens: int | None = None

    def accepted(self, event: Accepted) -> None:
        """A worker has taken it."""
        if self._prompt_tokens is None:
            self._prompt_tokens = event.prompt_tokens
            self._backlog.take(self._estimate)
            self._gate.learn(self._job, self._size, event)

    def leave(self, num_generated: int) -> None:
        """It has ended, however, with so many tokens generated. What was never accepted costs nothing."""
        if self._prompt_tokens is None:
            self._backlog.remove(self._estimate)
        used = (self._prompt_tokens or 0) + num_generated if self._job.n else 0
        self._gate.settle(self._job, self._reserved, used)
