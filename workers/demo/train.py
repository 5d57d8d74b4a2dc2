"""The whole recipe: ``python -m workers.demo.train --out DIR``.

Stages of a fixed number of steps, seeded throughout; a run that was interrupted goes
on from its last save. ``DIR/checkpoint`` receives the result, ``DIR/*.jsonl`` the curves.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from .export import CHECKPOINT, export
from .join import Phase, Plan, join
from .loop import in_parallel
from .pretrain import pretrain
from .saving import load_weights
from .shape import Dimensions

LOOKING_STEPS = 2300
STAGES: tuple[tuple[Plan, float], ...] = (
    (
        (
            Phase(400, single=9, lettered=3, pair=1, words=1, clip=1, crowd=4, dense_weight=1.0, surveys=4),
            Phase(2600, single=7, lettered=5, pair=2, words=1, clip=3, crowd=3, dense_weight=1.0, surveys=3),
        ),
        0.7,
    ),
    (
        (
            Phase(
                3800, single=9, lettered=5, pair=2, words=1, clip=2, crowd=2, dense_weight=0.5, surveys=1,
                questions=14, first_weight=3.0,
            ),
        ),
        0.316,
    ),
    (
        (
            Phase(
                4150, single=7, lettered=8, pair=2, words=1, clip=2, crowd=4, dense_weight=1.0, surveys=1,
                questions=14, first_weight=3.0,
            ),
        ),
        0.25,
    ),
)  # fmt: skip
"""Joint learning, then finishing twice: the plan, and over which part of all steps the rate falls to nothing."""
TOKENIZER_FILES = ("vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")


def write_snapshot(dims: Dimensions, state: Path, folder: Path) -> None:
    """Checkpoint files from a saved training state, with the shipped tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if folder != CHECKPOINT:
            shutil.copyfile(CHECKPOINT / name, folder / name)
    export(load_weights(state), dims, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    dims, processes = Dimensions(), options.processes
    in_parallel(pretrain, processes, processes, dims, options.out, LOOKING_STEPS)
    for plan, decay in STAGES:
        in_parallel(join, processes, processes, dims, CHECKPOINT, options.out, plan, decay)
    write_snapshot(dims, options.out / "joint.safetensors", options.out / "checkpoint")


if __name__ == "__main__":
    main()
