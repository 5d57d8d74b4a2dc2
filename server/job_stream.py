"""One job's way from the ledger to its client: what was given so far, and what waits to be taken."""

import asyncio
from collections.abc import Callable, Collection, Sequence

import msgspec

from schemas.errors import DeadlineExceeded, GlimpsedError
from schemas.events import Accepted, Delta, Event, Failed, Finished
from schemas.jobs import EmittedChoice, Job
from server.errors import from_event
from server.metrics import JobWatch
from server.trail import Trail

MAX_WAITING_EVENTS = 8192
"""Events that a client may lag behind before it is dropped: a few megabytes at most."""


TRIAL_TOKENS = 4
"""Of each choice, after a job's first loss: what ended its worker comes again with these, as those that were computed
and not yet told are few."""
TRIAL_GROWTH = 16
"""How much further each later loss makes a trial go: the one before was over too soon."""


def trial_tokens_of_choice(num_losses: int) -> int:
    """How long a job is suspected that so many lost workers had begun; see Job.trial_tokens."""
    return TRIAL_TOKENS * TRIAL_GROWTH ** (num_losses - 1) if num_losses else 0


class ChoiceLedger:
    """What the client was given of one choice."""

    __slots__ = ("is_finished", "token_ids")

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.is_finished = False


class JobStream:
    """Events of one job, in order and without a gap, over all its epochs.

    The ledger's side calls continues_with, append, fail and begin_next_epoch; the client's side calls take.
    trail: where its events are noted; the job goes on behind those that stand there.
    """

    def __init__(self, job: Job, clock: Callable[[], float], watch: JobWatch, trail: Trail | None = None) -> None:
        self.job = job
        self.began_s = clock()
        self.next_seq = 0
        self.num_losses = 0
        """Workers that had begun it and were lost, without a better suspect."""
        self.deadline_s = self.began_s + job.timeout_s
        self.is_over = False
        """No event will be appended any more: finished, failed or abandoned."""
        self._clock = clock
        self._watch = watch
        self._choices = [ChoiceLedger() for _ in range(job.n)]
        self._is_accepted = False
        self._media_digests: tuple[bytes, ...] = ()
        self._waiting: list[Event] = []
        self._failure: GlimpsedError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._trail = trail
        if trail is not None:
            self._go_on_behind(trail.events)

    @property
    def is_overrun(self) -> bool:
        """Whether the client lags too far behind."""
        return len(self._waiting) > MAX_WAITING_EVENTS

    @property
    def is_waiting(self) -> bool:
        """Whether no worker has said anything of it yet, in this epoch."""
        return self.next_seq == 0 and not self.is_over

    @property
    def num_generated(self) -> int:
        """Tokens that the client was given so far, of all choices."""
        return sum(len(choice.token_ids) for choice in self._choices)

    def time_left_s(self) -> float:
        """Seconds until the deadline, not negative."""
        return max(0.0, self.deadline_s - self._clock())

    async def take(self) -> list[Event]:
        """What has come since the last call, at least one event; none if it was nudged while it waited.

        After Finished, do not call again. Raises the error with which the job ended, once all events are taken.
        """
        await until_news((self,))
        return self.take_now()

    def take_now(self) -> list[Event]:
        """As `take`; none if nothing has come."""
        events, self._waiting = self._waiting, []
        if not events and self._failure is not None:
            raise self._failure
        return events

    def has_news(self) -> bool:
        """Whether `take` would return or raise at once."""
        return bool(self._waiting) or self._failure is not None

    def set_waiter(self, waiter: asyncio.Future[None] | None) -> None:
        """What gets its result with the next news, or a nudge; None: nobody waits."""
        self._waiter = waiter

    def nudge(self) -> None:
        """Make whoever waits for news go on without."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def continues_with(self, event: Event) -> bool:
        """Whether an event of this epoch follows on what is there."""
        if event.seq != self.next_seq or isinstance(event, Accepted) != (event.seq == 0):
            return isinstance(event, Failed) and event.seq == self.next_seq
        if isinstance(event, Delta):
            if not 0 <= event.index < len(self._choices):
                return False
            choice = self._choices[event.index]
            return not choice.is_finished and event.start == len(choice.token_ids)
        if isinstance(event, Finished):
            return all(choice.is_finished for choice in self._choices)
        return True

    def append(self, event: Event) -> None:
        """Add an event that continues the stream."""
        self.next_seq += 1
        if isinstance(event, Accepted) and self._is_accepted:
            return  # A later epoch's: the client has heard.
        self._watch.saw(event)
        if self._trail is not None and not isinstance(event, Failed):
            self._trail.add(event)
        self._take_in(event)

    def _go_on_behind(self, events: Sequence[Event]) -> None:
        for event in events:
            self._take_in(event)
        if events and not self.is_over:
            self.begin_next_epoch()

    def _take_in(self, event: Event) -> None:
        match event:
            case Accepted():
                self._is_accepted = True
                self._media_digests = event.media_digests
            case Delta():
                choice = self._choices[event.index]
                choice.token_ids.extend(event.token_ids)
                choice.is_finished = event.finish_reason is not None
            case Finished():
                self.is_over = True
            case Failed():
                self.fail(from_event(event))
                return
        self._waiting.append(event)
        self.nudge()

    def fail(self, error: GlimpsedError) -> None:
        """End the stream with an error; the first end counts."""
        if not self.is_over:
            self.is_over = True
            self._failure = error
            self.nudge()

    def begin_next_epoch(self) -> None:
        """Make the job one that goes on where this one stands, for another worker."""
        emitted = tuple(
            EmittedChoice(index, tuple(choice.token_ids), choice.is_finished)
            for index, choice in enumerate(self._choices)
            if choice.token_ids or choice.is_finished
        )
        trial_tokens = max(1, self.job.n) * trial_tokens_of_choice(self.num_losses)
        self.job = msgspec.structs.replace(
            self.job, epoch=self.job.epoch + 1, emitted=emitted, trial_tokens=trial_tokens
        )
        if self._media_digests:
            self.job = msgspec.structs.replace(self.job, media_digests=self._media_digests)
        self.next_seq = 0

    def overdue(self, is_served: bool) -> DeadlineExceeded:
        """The error of a job whose time is over."""
        if self._is_accepted:
            return DeadlineExceeded("The request's time was over before the answer was complete.")
        if is_served:
            return DeadlineExceeded("The request's time was over before its turn came.")
        return DeadlineExceeded("No worker for this model came in time.")


async def until_news(streams: Collection[JobStream]) -> None:
    """Returns as soon as one of the streams has news, or is nudged."""
    if any(stream.has_news() for stream in streams):
        return
    waiter = asyncio.get_running_loop().create_future()
    for stream in streams:
        stream.set_waiter(waiter)
    try:
        await waiter
    finally:
        for stream in streams:
            stream.set_waiter(None)
