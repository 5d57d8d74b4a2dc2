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

from .answer import complete, look
from .clips import ask_clip, sample_clip
from .dialogue import talk
from .export import CHECKPOINT, load
from .pairs import ask_pair, sample_pair
from .questions import Turn, ask
from .samples import IMAGE, SYSTEM, Writer
from .scenes import Scene, sample_scene
from .smalltalk import small_talk, unknown

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


def prompts(case: Case) -> list[str]:
    """Each conversation up to its last question, earlier answers as they should have been."""
    made = []
    for turns in case[2]:
        text = OPENING + case[1]
        for i, turn in enumerate(turns):
            text += ("<|im_start|>user\n" if i else "") + f"{turn.question}<|im_end|>\n<|im_start|>assistant\n"
            text += f"{turn.answer}<|im_end|>\n" if turn is not turns[-1] else ""
        made.append(text)
    return made


def evaluate(folder: Path, count: int, seed: int = 0, show: int = 0) -> dict[str, tuple[float, int]]:
    """Skill -> (share right, questions)."""
    model, dims = load(folder)
    writer = Writer(folder, dims.tokens)
    end = writer.tokenizer.token_to_id("<|im_end|>")
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    wrong: dict[str, list[str]] = defaultdict(list)
    for held, case in cases(count, seed):
        made = complete(model, look(model, dims, case[0]), [writer.prompt_ids(p) for p in prompts(case)], end)
        for turns, ids in zip(case[2], made, strict=True):
            turn, said = turns[-1], writer.tokenizer.decode(ids)
            for skill in (turn.skill, "held-out phrasing" if held else "known phrasing", "all"):
                asked[skill] += 1
                right[skill] += said == turn.answer
            if said != turn.answer:
                wrong[turn.skill].append(f"{turn.question!r}: {said!r} for {turn.answer!r}")
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
