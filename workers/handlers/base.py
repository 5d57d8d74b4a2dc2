"""What the worker's loop asks of the code that answers jobs. The loop knows no models, no media and no backend."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from schemas.control import ModelCard
from schemas.events import Event
from schemas.jobs import Job

Publish = Callable[[Event], None]
"""Hands an event over for sending; never waits. The loop numbers the events (`seq` as given is ignored) and sends
what was published in one turn of the event loop together. Only to be called from the event loop's thread."""


LONGEST_STEP_S = 300.0
"""Leaves room for kernels that are compiled, and graphs that are captured, when they are first used."""


class FatalError(Exception):
    """The backend cannot go on (device lost, out of memory at a step): the process must end, its jobs must move."""


class ModelLoadError(Exception):
    """The model cannot be loaded as configured; restarting would not help. The message is one line for the operator."""


@dataclass(frozen=True, slots=True)
class Stats:
    """How busy the handler is, for a heartbeat. `kv_usage`: share of the blocks that requests hold, 0..1.

    under_way: by name, what is being computed now, each with a number that changes when it gets on.
    longest_step_s: how long it may legitimately take to.
    """

    running: int
    waiting: int
    kv_usage: float
    metrics: dict[str, float] = field(default_factory=dict)
    under_way: dict[str, int] = field(default_factory=dict)
    longest_step_s: float = LONGEST_STEP_S


class JobHandler(Protocol):
    """Answers jobs with one loaded model."""

    card: ModelCard
    fatal: "asyncio.Future[None]"
    """Gets a FatalError as its exception when the backend fails for all jobs at once; else never done."""

    async def run(self, job: Job, publish: Publish) -> None:
        """Answer a job: Accepted, Delta*, Finished. Raises GlimpsedError for a refusal or failure of this job alone,
        FatalError where the process must end. A cancelled task must free what the job holds within one step."""
        ...

    def stats(self) -> Stats:
        """Now."""
        ...

    async def close(self) -> None:
        """Free the device, stop threads and processes."""
        ...
