"""The token masks of a step's answers, filled by a thread of its own while the model computes the step's logits."""

import os
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from workers.grammar.matcher import Matcher


@dataclass(frozen=True, slots=True)
class MaskJob:
    """A row of logits, the answer that it belongs to, and ids that it must not choose if there is a choice."""

    row: int
    matcher: Matcher
    banned_ids: Collection[int] = ()


@dataclass(frozen=True, slots=True)
class TokenMasks:
    """Which tokens some rows of logits may choose: bit i % 32 of bits[k, i // 32] is token i in row rows[k]."""

    rows: list[int]
    bits: np.ndarray


class PendingMasks:
    """Masks that are being filled."""

    def __init__(self, masks: TokenMasks, parts: "Sequence[Future[None]]") -> None:
        self._masks = masks
        self._parts = parts

    def wait(self) -> TokenMasks:
        """The masks, once they are whole; where one fails, the others have ended nevertheless."""
        wait(self._parts)
        for part in self._parts:
            part.result()
        return self._masks


class MaskFiller:
    """One step's masks at a time. A step's matchers must not move on before its masks are there."""

    def __init__(self) -> None:
        # Filling gives the interpreter's lock away. Most of the machine is the model's.
        self._num_threads = max(1, min(4, (os.cpu_count() or 1) // 4))
        self._pool: ThreadPoolExecutor | None = None

    def start(self, jobs: Sequence[MaskJob]) -> PendingMasks | None:
        """Begin to fill the masks of a step; None where no row is constrained: that costs nothing."""
        if not jobs:
            return None
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._num_threads, "masks")
        bits = np.zeros((len(jobs), jobs[0].matcher.num_words), dtype=np.int32)
        shares = [range(first, len(jobs), self._num_threads) for first in range(min(self._num_threads, len(jobs)))]
        parts = [self._pool.submit(_fill, jobs, bits, share) for share in shares]
        return PendingMasks(TokenMasks([job.row for job in jobs], bits), parts)


def _fill(jobs: Sequence[MaskJob], bits: np.ndarray, share: range) -> None:
    for at in share:
        jobs[at].matcher.fill(bits[at], jobs[at].banned_ids)
