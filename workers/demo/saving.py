"""Training state in one safetensors file: the model, what the optimisers remember, the step."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

MODEL = "model."
OPTIMISER = "optimiser."


def save_state(
    file: Path, weights: dict[str, Tensor], optimisers: list[torch.optim.Optimizer], step_number: int
) -> None:
    """Replace ``file`` at once, so that an interrupted save leaves the one before."""
    tensors = {MODEL + name: weight.contiguous() for name, weight in weights.items()}
    for number, optimiser in enumerate(optimisers):
        for parameter, memory in optimiser.state_dict()["state"].items():
            tensors |= {f"{OPTIMISER}{number}.{parameter}.{key}": value for key, value in memory.items()}
    fresh = file.with_suffix(".tmp")
    save_file(tensors, fresh, {"step": str(step_number)})
    fresh.rename(file)


def load_weights(file: Path) -> dict[str, Tensor]:
    """The model alone."""
    return {name.removeprefix(MODEL): tensor for name, tensor in load_file(file).items() if name.startswith(MODEL)}


def load_optimisers(file: Path, optimisers: list[torch.optim.Optimizer]) -> int:
    """Give the optimisers their memory back; returns the step."""
    memories: dict[int, dict[int, dict[str, Tensor]]] = defaultdict(lambda: defaultdict(dict))
    for name, tensor in load_file(file).items():
        if name.startswith(OPTIMISER):
            optimiser_number, parameter, key = name.removeprefix(OPTIMISER).split(".")
            memories[int(optimiser_number)][int(parameter)][key] = tensor
    for number, optimiser in enumerate(optimisers):
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": dict(memories[number]), "param_groups": groups})
    with safe_open(file, "pt") as opened:
        return int(opened.metadata()["step"])
