"""Where a vision tower runs while steps of the decoder go on, and how much of the time it has.

Whoever reads an answer notices a late token sooner than who still waits for the first one. So a tower has a share of
the steps' time, however much it has to do, and whatever cores nobody else wants.
"""

import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Protocol

import torch
from torch import Tensor

from workers.engine.sequence import MediaInput

Embeddings = dict[bytes, Tensor]


class Encoder(Protocol):
    """What a tower runs; see `Runner`."""

    def encode(self, items: Sequence[MediaInput]) -> Embeddings: ...
    def encode_in_parts(self, items: Sequence[MediaInput]) -> Generator[None, None, Embeddings]: ...


class Tower(Protocol):
    """Has one batch of media at a time. most_share: it is of use where prompts may have at most such a part of the
    steps' time."""

    most_share: float

    def begin(self, encoder: Encoder, items: Sequence[MediaInput]) -> Future[Embeddings]:
        """Have media encoded. What was begun before must be done."""
        ...

    def take_turn(self, share_s: float) -> None:
        """Between two steps: the steps have gone on, and so much of their time is the tower's. Returns once it has had
        all its shares since it began, or is done."""
        ...

    def finish(self) -> None:
        """Returns once what was begun is done: nobody has anything else to do."""
        ...


class TowerThread:
    """Beside the steps, for models that leave a core to it. Where many decode, nobody leaves it that core, and what
    their followers need is encoded faster at once."""

    most_share = 1.0

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "tower", initializer=self._step_back)
        self._clock_id = 0
        self._work: Future[Embeddings] | None = None
        self._began_s: float | None = None
        self._due_s = 0.0

    def begin(self, encoder: Encoder, items: Sequence[MediaInput]) -> Future[Embeddings]:
        """See Tower."""
        self._began_s, self._due_s = None, 0.0
        self._work = begun = self._executor.submit(self._run, encoder, items)
        return begun

    def take_turn(self, share_s: float) -> None:
        """See Tower. The steps wait where the other core has not given it its share; for `share_s` at most."""
        if self._work is None or self._work.done():
            return
        self._due_s += share_s
        had_s = 0.0 if self._began_s is None else time.clock_gettime(self._clock_id) - self._began_s
        if had_s < self._due_s:
            wait([self._work], min(self._due_s - had_s, share_s))

    def finish(self) -> None:
        """See Tower."""
        if self._work is not None:
            wait([self._work])

    def close(self) -> None:
        """Returns once the work is done."""
        self._executor.shutdown()

    def _run(self, encoder: Encoder, items: Sequence[MediaInput]) -> Embeddings:
        self._began_s = time.thread_time()
        return encoder.encode(items)

    def _step_back(self) -> None:
        torch.set_num_threads(1)
        self._clock_id = time.pthread_getcpuclockid(threading.get_ident())
        with suppress(OSError):  # some containers forbid it
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


class TowerTurns:
    """In the steps' own thread, between them, a part at a time: for models whose steps compute on all cores. Threads
    that meet at every product must not be held up by another. Where prompts may have more of the time, it is better to
    encode what they all need at once, within a step."""

    most_share = 0.5

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self._parts: Generator[None, None, Embeddings] | None = None
        self._work: Future[Embeddings] = Future()
        self._due_s = 0.0

    def begin(self, encoder: Encoder, items: Sequence[MediaInput]) -> Future[Embeddings]:
        """See Tower."""
        self._parts, self._work, self._due_s = encoder.encode_in_parts(items), Future(), 0.0
        return self._work

    def take_turn(self, share_s: float) -> None:
        """See Tower. A part that took longer than what was due counts against the next shares."""
        self._due_s += share_s
        while self._parts is not None and self._due_s > 0:
            began_s = self._clock()
            self._run_part(self._parts)
            self._due_s -= self._clock() - began_s

    def finish(self) -> None:
        """See Tower."""
        while self._parts is not None:
            self._run_part(self._parts)

    def _run_part(self, parts: Generator[None, None, Embeddings]) -> None:
        try:
            next(parts)
        except StopIteration as end:
            self._parts = None
            self._work.set_result(end.value)
        except Exception as error:
            self._parts = None
            self._work.set_exception(error)


def open_tower(device: torch.device) -> Tower | None:
    """None for an accelerator, which works off one queue: it would gain nothing."""
    if device.type != "cpu":
        return None
    return TowerThread() if torch.get_num_threads() < len(os.sched_getaffinity(0)) else TowerTurns()
