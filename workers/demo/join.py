"""Second stage: vision and language learn together from questions and answers."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .draw import draw_scene
from .grounding import ground_words
from .loop import Trainer, rate
from .model import Demo
from .pretrain import collate
from .samples import Sample, Writer, clip, pair, single, words_only
from .saving import load_weights
from .scenes import sample_crowded
from .shape import Dimensions
from .text import Sight

ROW = 112
ROWS = {"single": 3, "lettered": 1, "several": 3, "clip": 2}
"""Groups of samples padded alike, and how many rows of branches each of their samples has room for."""
USUAL_PROMPT = 50

EYES_RATE = 0.25
POINTING_WEIGHT = 0.3

Batch = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Phase:
    """Up to step ``last``: how many samples of each sort one process takes a step, and what the dense losses weigh.

    ``surveys`` and ``questions`` are those of one single picture. ``first_weight`` is how much more the first word of
    an answer counts, which decides what kind of answer it becomes.
    """

    last: int
    single: int
    lettered: int
    pair: int
    words: int
    clip: int
    crowd: int
    dense_weight: float
    surveys: int = 0
    questions: int = 10
    first_weight: float = 1.0


Plan = tuple[Phase, ...]


def phase_of(plan: Plan, step: int) -> Phase:
    return next(phase for phase in plan if step < phase.last)


def pad(samples: list[Sample], rows: int, image_token: int) -> dict[str, Tensor]:
    """Prefixes of equal length, then ``rows`` rows of ROW tokens into which the branches are packed.

    A branch that finds no room is left out: there are always more questions. ``gaze`` tells for each
    token in the rows which tokens of the prefix the next one is about: [subject or other, sample, token, prefix].
    """
    prefix = max(len(s.prefix) for s in samples)
    length = prefix + rows * ROW
    ids, positions = np.zeros((len(samples), length), np.int64), np.zeros((len(samples), length), np.int64)
    branches, learn = np.full((len(samples), length), -1, np.int64), np.zeros((len(samples), length), bool)
    gaze = np.zeros((2, len(samples), rows * ROW, prefix), bool)
    for i, sample in enumerate(samples):
        visual = np.flatnonzero(np.array(sample.prefix) == image_token)
        n = len(sample.prefix)
        ids[i, :n], positions[i, :n], branches[i, :n] = sample.prefix, range(n), 0
        used = [0] * rows
        for number, branch in enumerate(sample.branches, 1):
            size = len(branch.ids)
            row = next((r for r in range(rows) if used[r] + size <= ROW), None)
            if row is None:
                continue
            start = prefix + row * ROW + used[row]
            span = slice(start, start + size)
            ids[i, span], learn[i, span] = branch.ids, branch.learn
            positions[i, span], branches[i, span] = range(n, n + size), number
            for which, looks in enumerate((branch.about, branch.other)):
                for token, at in looks.items():
                    gaze[which, i, start - prefix + token - 1, visual[at]] = True
            used[row] += size
    arrays = {"ids": ids, "positions": positions, "branches": branches, "learn": learn, "gaze": gaze}
    return {**{name: torch.from_numpy(a) for name, a in arrays.items()}, "prefix": torch.tensor(prefix)}


class Lessons(Dataset):
    """Item ``i`` is one process's share of the batch of step ``i``."""

    def __init__(self, dims: Dimensions, tokenizer: Path, plan: Plan, seed: int, share: tuple[int, int]):
        self.dims, self.tokenizer, self.plan = dims, tokenizer, plan
        self.seed, self.share = seed, share
        self.writer: Writer | None = None

    def __len__(self) -> int:
        return self.plan[-1].last

    def __getitem__(self, step: int) -> Batch:
        self.writer = self.writer or Writer(self.tokenizer, self.dims.tokens)
        rng = random.Random(f"{self.seed} {step} {self.share[0]}")
        phase = phase_of(self.plan, step)
        made: dict[str, list[Sample]] = {group: [] for group in ROWS}
        for count, maker, group in (
            (
                phase.single,
                partial(single, questions=phase.questions, text_share=0.05, surveys=phase.surveys),
                "single",
            ),
            (phase.lettered, partial(single, questions=5, text_share=1.0), "lettered"),
            (phase.pair, pair, "several"),
            (phase.words, words_only, "several"),
            (phase.clip, partial(clip, questions=5, surveys=phase.surveys), "clip"),
        ):
            for sample in (maker(rng, self.writer) for _ in range(count)):
                odd = group in ("single", "lettered") and len(sample.prefix) > self.dims.tokens + USUAL_PROMPT
                made["several" if odd else group].append(sample)
        batch = {group: pad(samples, ROWS[group], self.writer.picture[1]) for group, samples in made.items() if samples}
        scenes = [scene for group in ROWS if group != "clip" for s in made[group] for scene in s.scenes]
        scenes += [sample_crowded(rng.getrandbits(40)) for _ in range(phase.crowd)]
        frames = [draw_scene(scene, self.dims.image) for s in made["clip"] for scene in s.scenes]
        tiles = np.stack(frames) if frames else np.zeros((0, self.dims.image, self.dims.image, 3), np.uint8)
        return {**batch, "pictures": collate(scenes, self.dims), "frames": {"tiles": torch.from_numpy(tiles)}}


def lesson_loss(model: Demo, batch: Batch, phase: Phase) -> tuple[Tensor, dict[str, float]]:
    """Cross entropy of the answers, and the dense losses of the same pictures.

    The frames of clips teach the language model only: for the tower they are pictures like any other.
    """
    pictures = batch.pop("pictures")
    patches = model.patches(pictures["tiles"])
    visual = model.tokens(patches)
    dense = model.heads(patches, visual, pictures)
    with torch.no_grad():
        frames = model.patches(batch.pop("frames")["tiles"])
    of_frames = model.tokens(frames).flatten(0, 1)
    flat, used, losses, weights, missed, notes = visual.flatten(0, 1), 0, [], [], [], {}
    for group, rows in batch.items():
        wanted = int((rows["ids"] == model.image_token).sum())
        sight = Sight.of(rows["branches"], int(rows["prefix"]), ROWS[group], flat.dtype, rows["gaze"])
        seen = of_frames if group == "clip" else flat[used : used + wanted]
        used += wanted
        hidden = model.hidden(rows["ids"], seen, rows["positions"], sight)
        after = rows["learn"].roll(-1, 1)
        logits = model.language_model.lm_head(hidden[after]).float()
        loss = F.cross_entropy(logits, rows["ids"][rows["learn"]], reduction="none")
        losses.append(loss)
        is_first = rows["learn"] & ~rows["learn"].roll(1, 1)
        weights.append(torch.where(is_first[rows["learn"]], phase.first_weight, 1.0))
        notes[group] = loss.mean().item()
        missed += sight.missed
    weight, pointing = torch.cat(weights), torch.cat(missed).mean()
    total = (torch.cat(losses) * weight).sum() / weight.sum()
    notes["pointing"] = pointing.item()
    notes.update({name: dense[name].item() for name in ("letter", "spelling", "ink", "centre", "ground", "counts")})
    return total + POINTING_WEIGHT * pointing + phase.dense_weight * sum(dense.values()), notes


def join(
    rank: int, processes: int, dims: Dimensions, tokenizer: Path, folder: Path, plan: Plan, decay: float, seed: int = 1,
) -> None:  # fmt: skip
    """Train to the end of the plan from the first stage's weights; continue from the last save if there is one.

    The rate falls over the last ``decay`` of all steps.
    """
    torch.manual_seed(seed)
    writer = Writer(tokenizer, dims.tokens)
    model = Demo(dims, writer.tokenizer.get_vocab_size(), writer.picture[1])
    trainer = Trainer(model, folder, "joint", EYES_RATE)
    if not trainer.resume():
        trainer.adopt(load_weights(folder / "vision.safetensors"))
        ground_words(trainer.master, writer.tokenizer)
        trainer.refresh()
    data = Lessons(dims, tokenizer, plan, seed, (rank, processes))
    steps = len(data)
    order = range(trainer.step_number, steps)
    for batch in DataLoader(data, batch_size=None, sampler=order, num_workers=1, prefetch_factor=6):
        loss, notes = lesson_loss(trainer.work, batch, phase_of(plan, trainer.step_number))
        loss.backward()
        trainer.note(**notes)
        trainer.update(rate(trainer.step_number, steps, decay=decay))
        if rank == 0 and (trainer.step_number % 50 == 0 or trainer.step_number == steps):
            trainer.report()
            trainer.save()
