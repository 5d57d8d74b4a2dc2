"""Held-out accuracy per skill: ``python -m workers.demo.evaluate [CHECKPOINT] [--pictures N]``.

Scenes come from seeds that training never uses, and about half of the questions from
phrasings kept out of training. An answer counts only if it is right to the letter.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from .answer import look
from .clips import ask_clip, sample_clip
from .dialogue import talk
from .export import CHECKPOINT, load
from .join import pad
from .model import Demo
from .pairs import ask_pair, sample_pair
from .questions import ask
from .samples import IMAGE, SYSTEM, Writer
from .scenes import Scene, sample_scene
from .shape import Dimensions
from .smalltalk import small_talk, unknown
from .text import Sight
from .turn import Turn

OPENING = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
Case = tuple[list[Scene], str, list[list[Turn]]]


def _pictures(rng: random.Random, held: bool, text_share: float = 0.3) -> Case:
    scene = sample_scene(rng.getrandbits(40) + (1 << 41), text_share)
    turns = [[ask(rng, scene, held)] for _ in range(8)]
    return [scene], IMAGE, [*turns, talk(rng, scene, 3, held), [unknown(rng, held)]]


def _pairs(rng: random.Random, held: bool) -> Case:
    pair = sample_pair(rng)
    return list(pair[:2]), IMAGE * 2, [[ask_pair(rng, pair, held)] for _ in range(5)]


def _clips(rng: random.Random, held: bool) -> Case:
    clip = sample_clip(rng, 8 if held else None)
    frames = "".join(f"Frame{i}: {IMAGE}" for i in range(1, len(clip.frames) + 1))
    return list(clip.frames), frames, [[ask_clip(rng, clip, held)] for _ in range(5)]


def _words(rng: random.Random, held: bool) -> Case:
    return [], "", [[small_talk(rng, held)], [unknown(rng, held)]]


def cases(count: int, seed: int) -> Iterator[tuple[bool, Case]]:
    rng = random.Random(f"held out {seed}")
    makers: tuple[tuple[Callable[[random.Random, bool], Case], float], ...] = (
        (_pictures, 1.0), (lambda r, h: _pictures(r, h, 1.0), 0.4), (_pairs, 0.4), (_clips, 0.5), (_words, 0.2),
    )  # fmt: skip
    for maker, share in makers:
        for i in range(max(2, int(count * share))):
            yield i % 2 == 1, maker(rng, i % 2 == 1)


@torch.no_grad()
def grade(model: Demo, dims: Dimensions, writer: Writer, case: Case) -> list[tuple[Turn, str | None]]:
    """The last turn of each branch, and what was said instead of the expected answer (None: exactly that).

    Greedy decoding gives an answer exactly if each of its tokens is the likeliest after the
    ones before it, so one pass over the expected answers replaces decoding them.
    """
    scenes, images, conversations = case
    sample = writer.build(scenes, OPENING + images, conversations)
    rows = pad([sample], len(conversations), writer.picture[1])
    visual = look(model, dims, scenes)
    sight = Sight.of(rows["branches"], int(rows["prefix"]), len(conversations), torch.float32)
    hidden = model.hidden(rows["ids"], visual, rows["positions"], sight)[0]
    graded: list[tuple[Turn, str | None]] = []
    for number, (turns, branch) in enumerate(zip(conversations, sample.branches, strict=True), 1):
        at = (rows["branches"][0] == number).nonzero().flatten()
        first = max(i for i, learn in enumerate(branch.learn) if learn and not branch.learn[i - 1])
        size = branch.learn[first:].index(False)
        said = model.language_model.lm_head(hidden[at[first - 1 : first + size - 1]]).argmax(-1).tolist()
        exact = said == branch.ids[first : first + size]
        graded.append((turns[-1], None if exact else writer.tokenizer.decode(said)))
    return graded


def evaluate(folder: Path, count: int, seed: int = 0, show: int = 0) -> dict[str, tuple[float, int]]:
    """Skill -> (share right, questions)."""
    model, dims = load(folder)
    writer = Writer(folder, dims.tokens)
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    wrong: dict[str, list[str]] = defaultdict(list)
    for held, case in cases(count, seed):
        for turn, instead in grade(model, dims, writer, case):
            for skill in (turn.skill, "held-out phrasing" if held else "known phrasing", "all"):
                asked[skill] += 1
                right[skill] += instead is None
            if instead is not None:
                wrong[turn.skill].append(f"{turn.question!r}: {instead!r} for {turn.answer!r}")
    for skill, lines in wrong.items():
        for line in lines[:show]:
            print(f"  [{skill}] {line}")
    return {skill: (right[skill] / n, n) for skill, n in sorted(asked.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=CHECKPOINT)
    parser.add_argument("--pictures", type=int, default=400, help="single pictures; pairs and clips come in proportion")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=0, help="print that many wrong answers of each skill")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for skill, (share, n) in evaluate(options.checkpoint, options.pictures, options.seed, options.show).items():
        print(f"{skill:20s} {share:6.1%}  of {n}")


if __name__ == "__main__":
    main()
