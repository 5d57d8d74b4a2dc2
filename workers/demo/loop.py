"""What both training stages share: bfloat16 working weights with float32 masters, schedule, clipping, saving.

The forward pass runs on the bfloat16 weights that will be shipped, so that the measured
accuracy is that of the released file and not of a more precise relative.
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from .muon import optimisers
from .saving import load_optimisers, load_weights, save_state

Model = TypeVar("Model", bound=nn.Module)
MATRIX_LR = 0.02
OTHER_LR = 3e-3


def rate(step: int, total: int, warmup: int = 100, decay: float = 0.3, rest: float = 0.0) -> float:
    """Warm up, stay, then fall linearly to ``rest`` over the last ``decay`` of the steps."""
    falling = rest + (1 - rest) * (total - step) / max(1.0, decay * total)
    return max(0.0, min(1.0, (step + 1) / warmup, falling))


def in_parallel(work: Callable[..., None], processes: int, *arguments: object) -> None:
    """Run ``work(rank, ...)`` in single-threaded processes that average their gradients.

    Two of them beat one process with two threads: they meet once a step, not once an operation.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_enter, (processes, f"file://{folder}/meeting", work, arguments), nprocs=processes)


def _enter(rank: int, processes: int, meeting: str, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    work(rank, *arguments)
    dist.destroy_process_group()


class Trainer(Generic[Model]):
    """One model under training, resumable at any step; the tower learns at ``eyes_rate`` of the usual rate."""

    def __init__(self, model: Model, folder: Path, name: str, eyes_rate: float = 1.0):
        self.master: Model = model.float()
        self.work: Model = copy.deepcopy(model).bfloat16()
        self.folder, self.name = folder, name
        self.optimisers = optimisers(self.master, MATRIX_LR, OTHER_LR, eyes_rate)
        self.step_number = 0
        self.sums: dict[str, list[float]] = defaultdict(list)
        self.started = time.time()
        folder.mkdir(parents=True, exist_ok=True)

    def update(self, rate_now: float, clip: float = 5.0) -> None:
        """Apply the gradients gathered on the working weights."""
        pairs = list(zip(self.master.parameters(), self.work.parameters(), strict=True))
        for master, work in pairs:
            master.grad = None if work.grad is None else work.grad.float()
            work.grad = None
        self._average()
        nn.utils.clip_grad_norm_(self.master.parameters(), clip)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["full_lr"] * rate_now
            optimiser.step()
        self.refresh()
        self.step_number += 1

    def _average(self) -> None:
        if not dist.is_initialized():
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.master.parameters()]
        for p, grad in zip(self.master.parameters(), grads, strict=True):
            p.grad = grad
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for grad, piece in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            grad.copy_(piece.view_as(grad))

    def note(self, **values: float) -> None:
        for key, value in values.items():
            self.sums[key].append(float(value))

    def report(self) -> None:
        """Print and record the means since the last report."""
        means = {key: round(sum(v) / len(v), 4) for key, v in self.sums.items() if v}
        self.sums.clear()
        line = json.dumps({"step": self.step_number, "seconds": round(time.time() - self.started), **means})
        print(line, flush=True)
        with (self.folder / f"{self.name}.jsonl").open("a") as log:
            log.write(line + "\n")

    def save(self) -> None:
        save_state(self._file, self.master.state_dict(), self.optimisers, self.step_number)

    def resume(self) -> bool:
        """Go on from the last save, if there is one."""
        if not self._file.exists():
            return False
        self.step_number = load_optimisers(self._file, self.optimisers)
        self.adopt(load_weights(self._file))
        return True

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.name}.safetensors"

    def adopt(self, weights: dict[str, torch.Tensor]) -> None:
        """Take over these weights, which may be those of a part of the model."""
        self.master.load_state_dict(weights, strict=False)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the working weights up to the masters."""
        for master, work in zip(self.master.parameters(), self.work.parameters(), strict=True):
            work.copy_(master)
