"""Whose fault it is that a step raised: the device's, and then the engine is not to be used again, or one request's."""

from collections import deque
from collections.abc import Sequence as Seq

import torch

from workers.engine.sampler import NonFiniteLogits
from workers.engine.sequence import Sequence, Status

MAX_GUILTY = 4
"""Requests that may be found guilty one after another. More of them, and no step in between that went well: then it is
rather the engine that is broken, and everything would fail here that other workers could do."""

_OF_DEVICE = (torch.AcceleratorError, torch.OutOfMemoryError, MemoryError, NonFiniteLogits)


def is_of_device(error: Exception, device: torch.device) -> bool:
    """Whether an exception is the device's, or may be: on an accelerator, any of the library's."""
    return isinstance(error, _OF_DEVICE) or (device.type != "cpu" and isinstance(error, RuntimeError))


class Suspects:
    """The sequences of a step that raised. Each runs a step alone, until one raises again: that one is guilty."""

    def __init__(self) -> None:
        self._waiting: deque[Sequence] = deque()
        self._num_guilty = 0

    def next(self) -> Sequence | None:
        """Who runs alone in the next step; None: nobody is suspected, and all run together."""
        while self._waiting:
            seq = self._waiting.popleft()
            if seq.status is Status.RUNNING:
                return seq
        return None

    def went_well(self) -> None:
        """A step has not raised."""
        self._num_guilty = 0

    def guilty(self, sequences: Seq[Sequence]) -> Sequence | None:
        """A step of these has raised. Returns the one whose fault it is; None as long as it may be any of them."""
        if len(sequences) > 1:
            self._waiting.extend(sequences)
            return None
        self._num_guilty += 1
        return sequences[0]

    @property
    def are_too_many(self) -> bool:
        """Whether so many were guilty that it was none of them."""
        return self._num_guilty > MAX_GUILTY
