"""Dense training targets for each patch and each visual token, and the heads that learn them.

A question teaches one fact about a picture; these targets teach all of them at once. One
classifier serves all patches, so that a letter seen anywhere helps to know it everywhere.
The heads are dropped after training.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .lettering import ALPHABET, EM_HEIGHT, MAX_LETTERS, Lettering
from .scenes import COLOURS, KINDS, Scene
from .shape import Dimensions

OBJECTS = len(KINDS) * len(COLOURS) + 1
CHARACTERS = len(ALPHABET) + 1
GROUNDS = ("grey", *COLOURS)
COUNTED = 1 + len(KINDS) + len(COLOURS)
COUNT_LEVELS = 6
PARITIES = 2
TURNS = MAX_LETTERS // PARITIES + 1


def _object_class(kind: str, colour: str) -> int:
    return 1 + KINDS.index(kind) * len(COLOURS) + COLOURS.index(colour)


def _span(low: float, high: float, grid: int) -> range:
    """The patches whose middle lies between two fractions of the picture; at least the one in between."""
    first, last = round(low * grid), round(high * grid)
    if first >= last:
        first = min(grid - 1, max(0, int((low + high) / 2 * grid)))
        last = first + 1
    return range(max(0, first), min(grid, last))


def _shape_targets(scene: Scene, grid: int) -> dict[str, np.ndarray]:
    """``cover``: the object over each patch. ``centre``, ``box``: the object whose middle is in each token."""
    cells = grid // 2
    cover, centre = np.zeros((grid, grid), np.int64), np.zeros((cells, cells), np.int64)
    box, counts = np.zeros((cells, cells, 4), np.float32), np.zeros(COUNTED, np.int64)
    middle = (np.arange(grid) + 0.5) / grid
    for shape in scene.shapes:
        label = _object_class(shape.kind, shape.colour)
        column, row = min(cells - 1, int(shape.x * cells)), min(cells - 1, int(shape.y * cells))
        centre[row, column] = label
        box[row, column] = (shape.x * cells - column, shape.y * cells - row, shape.rx * 4, shape.ry * 4)
        far = ((middle - shape.y) / shape.ry)[:, None] ** 2 + ((middle - shape.x) / shape.rx)[None] ** 2
        cover[far < 0.7] = label
        counts[[0, 1 + KINDS.index(shape.kind), 1 + len(KINDS) + COLOURS.index(shape.colour)]] += 1
    return {"cover": cover.ravel(), "centre": centre.ravel(), "box": box.reshape(-1, 4), "counts": counts}


def letter_targets(words: list[Lettering], grid: int) -> dict[str, np.ndarray]:
    """``letter``, ``order``: the character over each patch and its number in the word, from 1.

    ``spelling``, ``turn``: the same for each token, odd and even numbers apart. Two characters
    that share a token are neighbours as a rule, so that each gets a place of its own.
    ``ink``: the colour of the word over each token.
    """
    cells = grid // 2
    letter, order = np.zeros((grid, grid), np.int64), np.zeros((grid, grid), np.int64)
    spelling, turn = (np.zeros((cells, cells, PARITIES), np.int64) for _ in range(2))
    ink, nearest = np.zeros((cells, cells), np.int64), np.full((cells, cells, PARITIES), np.inf)
    for word in words:
        half = word.height / EM_HEIGHT * 0.3
        rows = _span(word.y - half, word.y + half, grid)
        edges = word.edges()
        for i, character in enumerate(word.string):
            columns = _span(edges[i], edges[i + 1], grid)
            block = np.ix_(rows, columns)
            letter[block], order[block] = 1 + ALPHABET.index(character), i + 1
            for row in {r // 2 for r in rows}:
                for column in {c // 2 for c in columns}:
                    ink[row, column] = 1 + COLOURS.index(word.colour)
                    far = abs((edges[i] + edges[i + 1]) / 2 * cells - column - 0.5)
                    if far < nearest[row, column, i % PARITIES]:
                        nearest[row, column, i % PARITIES] = far
                        spelling[row, column, i % PARITIES] = 1 + ALPHABET.index(character)
                        turn[row, column, i % PARITIES] = 1 + i // PARITIES
    return {
        "letter": letter.ravel(), "order": order.ravel(),
        "spelling": spelling.reshape(-1, PARITIES), "turn": turn.reshape(-1, PARITIES), "ink": ink.ravel(),
    }  # fmt: skip


def dense_targets(scene: Scene, grid: int) -> dict[str, np.ndarray]:
    """What each of ``grid`` x ``grid`` patches and a quarter as many tokens should know; -1: does not apply."""
    words = [text for text in (scene.lettering, *scene.crowd) if text]
    ground = GROUNDS.index(scene.background.colour) if scene.background.colour else -1
    return {**_shape_targets(scene, grid), **letter_targets(words, grid), "ground": np.array(ground, np.int64)}


class DenseHeads(nn.Module):
    """Linear readings of the patches and of the projected tokens, so that the facts lie open to the text model too."""

    def __init__(self, dims: Dimensions):
        super().__init__()
        seen, width = dims.vision_width, dims.text_width
        self.patch_norm, self.norm = nn.LayerNorm(seen), nn.LayerNorm(width)
        self.cover, self.letter, self.order = (nn.Linear(seen, n) for n in (OBJECTS, CHARACTERS, MAX_LETTERS + 1))
        self.centre, self.box = nn.Linear(width, OBJECTS), nn.Linear(width, 4)
        self.spelling, self.turn = nn.Linear(width, PARITIES * CHARACTERS), nn.Linear(width, PARITIES * TURNS)
        self.counts, self.ground = nn.Linear(width, COUNTED * COUNT_LEVELS), nn.Linear(width, len(GROUNDS))
        self.place, self.ink = nn.Linear(width, 2 * dims.cells), nn.Linear(width, len(COLOURS) + 1)
        self.cells = dims.cells

    def forward(self, patches: Tensor, tokens: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of each head; rare classes weigh more than "nothing here"."""
        y, x = self.patch_norm(patches), self.norm(tokens)
        pooled = x.mean(1)
        present = targets["centre"] > 0
        return {
            "cover": _weighted(self.cover(y), targets["cover"], 0.2) * 0.5,
            "letter": _weighted(self.letter(y), targets["letter"], 0.1),
            "order": _weighted(self.order(y), targets["order"], 0.1) * 0.5,
            "centre": _weighted(self.centre(x), targets["centre"], 0.15),
            "box": (self.box(x).float() - targets["box"])[present].abs().mean() if present.any() else x.sum() * 0,
            "spelling": _weighted(self.spelling(x), targets["spelling"], 0.1),
            "turn": _weighted(self.turn(x), targets["turn"], 0.1) * 0.5,
            "ink": _weighted(self.ink(x), targets["ink"], 0.1),
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
    def scores(self, patches: Tensor, tokens: Tensor, targets: dict[str, Tensor]) -> dict[str, float]:
        """Held-out accuracy where there is something to find."""
        y, x = self.patch_norm(patches), self.norm(tokens)
        found = {}
        for name, seen in (("letter", y), ("order", y), ("centre", x), ("spelling", x), ("turn", x)):
            target = targets[name]
            guess = getattr(self, name)(seen).view(*target.shape, -1).argmax(-1)
            found[name] = (guess == target)[target > 0].float().mean().item()
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
