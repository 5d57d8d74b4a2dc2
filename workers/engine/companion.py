"""What is computed beside the steps of those who decode, where, and how much of the time it has.

Whoever reads an answer notices a late token sooner than who still waits for the first one. So the pictures and prompts
of those who wait have a share of the steps' time, however much there is to do, and whatever cores nobody else wants.
"""

import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from workers.engine.plan import Chunk
from workers.engine.sequence import MediaInput

Embeddings = dict[bytes, Tensor]
_T = TypeVar("_T")


class Computer(Protocol):
    """What a companion runs; see `Runner`."""

    def encode(self, items: Sequence[MediaInput]) -> Embeddings: ...
    def encode_in_parts(self, items: Sequence[MediaInput]) -> Generator[None, None, Embeddings]: ...
    def prefill(self, chunk: Chunk) -> None: ...


class Companion(Protocol):
    """Has one piece of work at a time; what was begun before must be done.

    most_share: it is of use where prompts may have at most such a part of the steps' time. prefill_tokens: most of a
    prompt's that it takes at once; 0: it is not to prefill.
    """

    most_share: float
    prefill_tokens: int

    def encode(self, computer: Computer, items: Sequence[MediaInput]) -> Future[Embeddings]:
        """Have media encoded."""
        ...

    def prefill(self, computer: Computer, chunk: Chunk) -> Future[None]:
        """Have the keys and values of a chunk computed."""
        ...

    def take_turn(self, share_s: float) -> None:
        """Between two steps: the steps have gone on, and so much of their time is the companion's. Returns once it has
        had all its shares since it began, or is done."""
        ...

    def finish(self) -> None:
        """Returns once what was begun is done: nobody has anything else to do."""
        ...


class CompanionThread:
    """For models that leave a core to it. Where many decode, nobody leaves it that core, and what their followers need
    is computed faster at once."""

    most_share = 1.0
    prefill_tokens = 128

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "companion", initializer=self._step_back)
        self._clock_id = 0
        self._work: Future[Any] | None = None
        self._began_s: float | None = None
        self._due_s = 0.0
        # The thread is there from the start: what a worker holds does not grow with its first picture.
        self._executor.submit(int)

    def encode(self, computer: Computer, items: Sequence[MediaInput]) -> Future[Embeddings]:
        """See Companion."""
        return self._begin(lambda: computer.encode(items))

    def prefill(self, computer: Computer, chunk: Chunk) -> Future[None]:
        """See Companion."""
        return self._begin(lambda: computer.prefill(chunk))

    def take_turn(self, share_s: float) -> None:
        """See Companion. The steps wait where the other core has not given it its share; for `share_s` at most."""
        if self._work is None or self._work.done():
            return
        self._due_s += share_s
        had_s = 0.0 if self._began_s is None else time.clock_gettime(self._clock_id) - self._began_s
        if had_s < self._due_s:
            wait([self._work], min(self._due_s - had_s, share_s))

    def finish(self) -> None:
        """See Companion."""
        if self._work is not None:
            wait([self._work])

    def close(self) -> None:
        """Returns once the work is done."""
        self._executor.shutdown()

    def _begin(self, work: Callable[[], _T]) -> Future[_T]:
        self._began_s, self._due_s = None, 0.0
        self._work = begun = self._executor.submit(self._run, work)
        return begun

    def _run(self, work: Callable[[], _T]) -> _T:
        self._began_s = time.thread_time()
        return work()

    def _step_back(self) -> None:
        torch.set_num_threads(1)
        self._clock_id = time.pthread_getcpuclockid(threading.get_ident())
        with suppress(OSError):  # some containers forbid it
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


class CompanionTurns:
    """In the steps' own thread, between them, a part at a time: for models whose steps compute on all cores. Threads
    that meet at every product must not be held up by another. Where prompts may have more of the time, it is better to
    encode what they all need at once, within a step. Their tokens cost least in the steps, which read the weights
    anyway."""

    most_share = 0.5
    prefill_tokens = 0

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self._parts: Generator[None, None, Any] | None = None
        self._work: Future[Any] = Future()
        self._due_s = 0.0

    def encode(self, computer: Computer, items: Sequence[MediaInput]) -> Future[Embeddings]:
        """See Companion."""
        return self._begin(computer.encode_in_parts(items))

    def prefill(self, computer: Computer, chunk: Chunk) -> Future[None]:
        """See Companion. In one part."""
        return self._begin(_in_one_part(lambda: computer.prefill(chunk)))

    def take_turn(self, share_s: float) -> None:
        """See Companion. A part that took longer than what was due counts against the next shares."""
        self._due_s += share_s
        while self._parts is not None and self._due_s > 0:
            began_s = self._clock()
            self._run_part(self._parts)
            self._due_s -= self._clock() - began_s

    def finish(self) -> None:
        """See Companion."""
        while self._parts is not None:
            self._run_part(self._parts)

    def _begin(self, parts: Generator[None, None, _T]) -> Future[_T]:
        self._parts, self._work, self._due_s = parts, Future(), 0.0
        return self._work

    def _run_part(self, parts: Generator[None, None, Any]) -> None:
        try:
            next(parts)
        except StopIteration as end:
            self._parts = None
            self._work.set_result(end.value)
        except Exception as error:
            self._parts = None
            self._work.set_exception(error)


def open_companion(device: torch.device) -> Companion | None:
    """None for an accelerator, which works off one queue: it would gain nothing."""
    if device.type != "cpu":
        return None
    return CompanionThread() if torch.get_num_threads() < len(os.sched_getaffinity(0)) else CompanionTurns()


def _in_one_part(work: Callable[[], _T]) -> Generator[None, None, _T]:
    yield from ()
    return work()
