"""The whole recipe: ``python -m workers.demo.train --out DIR``.

Two stages of a fixed number of steps, seeded throughout; a run that was interrupted goes
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
JOINT_STEPS = 2600
DECAY = 0.7
PLAN: Plan = (
    Phase(400, single=9, lettered=3, pair=1, words=1, clip=1, crowd=4, dense_weight=1.0, surveys=4),
    Phase(JOINT_STEPS, single=7, lettered=5, pair=2, words=1, clip=3, crowd=3, dense_weight=1.0, surveys=3),
)
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
    parser.add_argument("--looking-steps", type=int, default=LOOKING_STEPS)
    parser.add_argument("--joint-steps", type=int, default=JOINT_STEPS)
    options = parser.parse_args()
    dims = Dimensions()
    in_parallel(pretrain, options.processes, options.processes, dims, options.out, options.looking_steps)
    in_parallel(
        join, options.processes, options.processes, dims, CHECKPOINT, options.out, options.joint_steps, PLAN, DECAY
    )
    write_snapshot(dims, options.out / "joint.safetensors", options.out / "checkpoint")


if __name__ == "__main__":
    main()
