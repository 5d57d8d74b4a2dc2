"""What every job passes on its way to the queue: its key's priority and tokens a minute, and its model's backlog."""

from collections.abc import Callable

import msgspec

from schemas.errors import Overloaded, TooMuch
from schemas.events import Accepted
from schemas.jobs import Job
from server.limits.backlog import Backlog, bounded
from server.limits.estimate import PromptEstimator, PromptSize, size_of
from server.limits.key_limits import KeyLimits
from server.limits.rates import RateLimits

SHARE_OF_TIME = 0.8
"""How much of the time that a request has for waiting it is let in for: what is left makes up for wrong estimates."""
MIN_SHARE = 0.5
"""How much of its time a request may wait, however long others took."""
WEIGHT = 0.1


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
        self._mean_s: dict[str, float] = {}
        """By model, from a job's acceptance to its end."""

    def admit(self, job: Job) -> Job:
        """The job with the priority that its key may have."""
        least = self._limits_of(job.tenant).min_priority
        return job if least is None or job.priority >= least else msgspec.structs.replace(job, priority=least)

    def enter(self, job: Job) -> "Passage":
        """Let a live job wait for its turn. Raises Overloaded, and then nothing is held: also where its turn would come
        too late, as what is begun in vain is taken from those who could still be served."""
        size = size_of(job)
        prompt_tokens = self._estimator.estimate(job.model, size)
        backlog = self._backlogs.setdefault(job.model, Backlog(job.model, self._max_queue_tokens, self._clock))
        self._check_time(job, backlog)
        backlog.add(prompt_tokens, job.priority)
        try:
            # A job that generates nothing is none of the key's tokens.
            cost = prompt_tokens + job.n * (job.sampling.max_tokens or 0) if job.n else 0
            reserved = self._rates.reserve_tokens(job.tenant, cost)
        except BaseException:
            backlog.remove(prompt_tokens, job.priority)
            raise
        return Passage(job, size, prompt_tokens, reserved, backlog, self)

    def waiting_tokens(self) -> dict[str, int]:
        """Model -> prompt tokens that wait for it now, as estimated."""
        return {model: backlog.num_tokens for model, backlog in self._backlogs.items()}

    def learn(self, job: Job, size: PromptSize, accepted: Accepted) -> None:
        """A worker has counted a prompt."""
        self._estimator.learn(job.model, size, accepted)

    def took(self, job: Job, seconds: float) -> None:
        """An accepted job has ended."""
        mean_s = self._mean_s.get(job.model, 0.0)
        self._mean_s[job.model] = mean_s + WEIGHT * (seconds - mean_s)

    def now_s(self) -> float:
        """The clock's time."""
        return self._clock()

    def _check_time(self, job: Job, backlog: Backlog) -> None:
        left_s = max(job.timeout_s - self._mean_s.get(job.model, 0.0), MIN_SHARE * job.timeout_s)
        wait_s = backlog.wait_s(job.priority)
        if wait_s > SHARE_OF_TIME * left_s:
            message = (
                f"The model '{job.model}' would not get to this request within its {job.timeout_s:.0f} s; "
                "try again later."
            )
            raise Overloaded(message, bounded(wait_s - SHARE_OF_TIME * left_s), TooMuch.QUEUE_TIME)

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
        self._accepted_s = 0.0

    def accepted(self, event: Accepted) -> None:
        """A worker has taken it."""
        if self._prompt_tokens is None:
            self._prompt_tokens = event.prompt_tokens
            self._accepted_s = self._gate.now_s()
            self._backlog.take(self._estimate, self._job.priority)
            self._gate.learn(self._job, self._size, event)

    def leave(self, num_generated: int) -> None:
        """It has ended, however, with so many tokens generated. What was never accepted costs nothing."""
        if self._prompt_tokens is None:
            self._backlog.remove(self._estimate, self._job.priority)
        else:
            self._gate.took(self._job, self._gate.now_s() - self._accepted_s)
        used = (self._prompt_tokens or 0) + num_generated if self._job.n else 0
        self._gate.settle(self._job, self._reserved, used)
