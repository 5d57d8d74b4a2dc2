"""`python -m tests.fakes.faulty_worker MODEL ...`: the worker as it is, on a device that fails when it is told to.

A file in the folder FAULTS, named after one of the kinds below, breaks one step of one worker, and is gone then. A
request with one of the seeds below breaks every step that it is part of.
"""

import dataclasses
import os
import sys
import threading
from pathlib import Path
from typing import Any

import torch

from workers.__main__ import main
from workers.engine.plan import StepPlan
from workers.engine.runner import Runner
from workers.handlers.base import JobHandler
from workers.handlers.open import open_handler
from workers.settings import WorkerSettings

FAULTS = "GLIMPSED_TEST_FAULTS"
SEED_OF_A_BUG = 666
SEED_OF_POISON = 667
KINDS = ("device", "memory", "nan", "hang")


class FaultyRunner:
    """A runner whose steps fail."""

    def __init__(self, runner: Runner, folder: Path) -> None:
        self._runner = runner
        self._folder = folder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def execute(self, plan: StepPlan) -> Any:
        seeds = {chunk.seq.sampling.seed for chunk in plan.chunks}
        if SEED_OF_POISON in seeds:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")
        if SEED_OF_A_BUG in seeds:
            raise IndexError("a bug that only this request meets")
        for kind in KINDS:
            if self._is_due(kind, plan):
                return self._fail(kind, plan)
        return self._runner.execute(plan)

    def _is_due(self, kind: str, plan: StepPlan) -> bool:
        """Only a step in which somebody is in the middle of an answer is worth breaking."""
        if not any(chunk.samples and chunk.seq.num_output_tokens > 10 for chunk in plan.chunks):
            return False
        try:
            (self._folder / kind).unlink()
        except FileNotFoundError:
            return False
        return True

    def _fail(self, kind: str, plan: StepPlan) -> Any:
        if kind == "device":
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        if kind == "hang":
            threading.Event().wait()
        if kind == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        result: Any = self._runner.execute(plan)
        return dataclasses.replace(result, logits=torch.full_like(result.logits, float("nan")))


async def open_faulty(settings: WorkerSettings) -> JobHandler:
    """The handler of a checkpoint, over such a runner."""
    handler: Any = await open_handler(settings)
    engine = handler._backend._engine
    engine._runner = FaultyRunner(engine._runner, Path(os.environ[FAULTS]))
    return handler


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], open_faulty))
