"""Dense training targets for each visual token, and the heads that learn them.

A question teaches one fact about a picture; these targets teach all of them at once, for
each of the tokens: which object has its centre there, which one covers it, which characters
stand there and as which letter of the word. The heads are dropped after training.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .lettering import ALPHABET, MAX_LETTERS
from .scenes import COLOURS, KINDS, Scene
from .shape import Dimensions

SLOTS = 4
OBJECTS = len(KINDS) * len(COLOURS) + 1
CHARACTERS = len(ALPHABET) + 1
GROUNDS = ("grey", *COLOURS)
COUNTED = 1 + len(KINDS) + len(COLOURS)
COUNT_LEVELS = 6


def _object_class(kind: str, colour: str) -> int:
    return 1 + KINDS.index(kind) * len(COLOURS) + COLOURS.index(colour)


def dense_targets(scene: Scene, cells: int) -> dict[str, np.ndarray]:
    """What each of ``cells`` x ``cells`` tokens should know; -1 marks targets that do not apply."""
    n = cells * cells
    centre, cover = np.zeros(n, np.int64), np.zeros(n, np.int64)
    box = np.zeros((n, 4), np.float32)
    letter, order = np.zeros((n, SLOTS), np.int64), np.zeros((n, SLOTS), np.int64)
    counts = np.zeros(COUNTED, np.int64)
    places = (np.arange(cells) + 0.5) / cells
    for shape in scene.shapes:
        label = _object_class(shape.kind, shape.colour)
        column, row = min(cells - 1, int(shape.x * cells)), min(cells - 1, int(shape.y * cells))
        centre[row * cells + column] = label
        box[row * cells + column] = (shape.x * cells - column, shape.y * cells - row, shape.rx * 4, shape.ry * 4)
        inside = (np.abs(places - shape.y) < shape.ry * 0.6)[:, None] & (np.abs(places - shape.x) < shape.rx * 0.6)
        cover[inside.ravel()] = label
        counts[[0, 1 + KINDS.index(shape.kind), 1 + len(KINDS) + COLOURS.index(shape.colour)]] += 1
    for text in (scene.lettering, *scene.crowd):
        if text is None:
            continue
        for i, (x, y) in enumerate(text.centres()):
            fine = min(cells * SLOTS - 1, max(0, int(x * cells * SLOTS)))
            cell = min(cells - 1, max(0, int(y * cells))) * cells + fine // SLOTS
            letter[cell, fine % SLOTS] = 1 + ALPHABET.index(text.string[i])
            order[cell, fine % SLOTS] = i + 1
    ground = GROUNDS.index(scene.background.colour) if scene.background.colour else -1
    return {
        "centre": centre, "cover": cover, "box": box, "letter": letter, "order": order,
        "counts": counts, "ground": np.array(ground, np.int64),
    }  # fmt: skip


class DenseHeads(nn.Module):
    """Linear readings of the projected tokens, so that the facts lie open to the text model as well."""

    def __init__(self, dims: Dimensions):
        super().__init__()
        width = dims.text_width
        self.norm = nn.LayerNorm(width)
        self.centre = nn.Linear(width, OBJECTS)
        self.cover = nn.Linear(width, OBJECTS)
        self.box = nn.Linear(width, 4)
        self.letter = nn.Linear(width, SLOTS * CHARACTERS)
        self.order = nn.Linear(width, SLOTS * (MAX_LETTERS + 1))
        self.counts = nn.Linear(width, COUNTED * COUNT_LEVELS)
        self.ground = nn.Linear(width, len(GROUNDS))
        self.place = nn.Linear(width, 2 * dims.cells)
        self.cells = dims.cells

    def forward(self, tokens: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of each head; rare classes weigh more than "nothing here"."""
        x = self.norm(tokens)
        pooled = x.mean(1)
        present = targets["centre"] > 0
        return {
            "centre": _weighted(self.centre(x), targets["centre"], 0.15),
            "cover": _weighted(self.cover(x), targets["cover"], 0.15) * 0.5,
            "box": (self.box(x).float() - targets["box"])[present].abs().mean() if present.any() else x.sum() * 0,
            "letter": _weighted(self.letter(x), targets["letter"], 0.05) * 2,
            "order": _weighted(self.order(x), targets["order"], 0.05) * 0.5,
            "counts": F.cross_entropy(self.counts(pooled).float().view(-1, COUNT_LEVELS), targets["counts"].flatten()),
            "ground": _ground_loss(self.ground(pooled), targets["ground"]) * 0.3,
            "place": self._place_loss(x),
        }

    def _place_loss(self, x: Tensor) -> Tensor:
        """Every token should tell its own row and column: nothing else in the text model does."""
        here = torch.arange(self.cells * self.cells)
        target = torch.stack([here // self.cells, here % self.cells], 1).expand(len(x), -1, -1)
        return F.cross_entropy(self.place(x).float().view(-1, self.cells), target.flatten()) * 0.5

    @torch.no_grad()
    def scores(self, tokens: Tensor, targets: dict[str, Tensor]) -> dict[str, float]:
        """Held-out accuracy where there is something to find."""
        x = self.norm(tokens)
        found = {}
        for name, classes in (("centre", OBJECTS), ("letter", CHARACTERS), ("order", MAX_LETTERS + 1)):
            guess = getattr(self, name)(x).view(*targets[name].shape, classes).argmax(-1)
            there = (targets[name] > 0) | (guess > 0)
            found[name] = (guess == targets[name])[there].float().mean().item()
        guess = self.counts(x.mean(1)).view(-1, COUNTED, COUNT_LEVELS).argmax(-1)
        found["total"] = (guess == targets["counts"])[:, 0].float().mean().item()
        return found


def _weighted(logits: Tensor, target: Tensor, nothing: float) -> Tensor:
    """Cross entropy in which class 0 weighs ``nothing``."""
    target = target.flatten()
    losses = F.cross_entropy(logits.float().reshape(target.numel(), -1), target, reduction="none")
    weights = torch.where(target > 0, 1.0, nothing)
    return (losses * weights).sum() / weights.sum()


def _ground_loss(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), target, ignore_index=-1) if (target >= 0).any() else logits.sum() * 0
