"""Which tokens of the pictures each token of an answer is about.

Answers alone teach a small model slowly where to look: with several shapes in a picture it
long mixes what it knows of all of them. So a few attention heads are told, while training,
which visual token the next word is about (``text.py``); they are ordinary heads afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .dense import dense_targets, letter_targets
from .lettering import ALPHABET, Lettering
from .scenes import Scene, Shape


class Seen(NamedTuple):
    """A shape in one of the pictures."""

    shape: Shape
    scene: int = 0


Focus = tuple[tuple[Seen, ...], ...]
"""For each sentence of an answer the shapes that it is about, in the order in which it names them."""


def seen(*shapes: Shape, scene: int = 0) -> Focus:
    """The focus of an answer of one sentence."""
    return (tuple(Seen(shape, scene) for shape in shapes),)


def spans(answer: str, focus: Focus) -> list[tuple[int, Seen]]:
    """Where, in characters, the part of the answer about each shape ends.

    A shape that is followed by another ends with its name; the last one keeps the rest of the sentence.
    """
    found, start = [], 0
    for sentence, shapes in zip(re.findall(r"[^.]+\.?", answer), focus, strict=False):
        cursor, start = start, start + len(sentence)
        for shape in shapes[:-1]:
            named = answer.find(shape.shape.kind, cursor, start)
            if named >= 0:
                cursor = named + len(shape.shape.kind)
                found.append((cursor, shape))
        if shapes:
            found.append((start, shapes[-1]))
    return found


def cell_of(shape: Shape, cells: int) -> int:
    """The visual token that holds the shape's centre, as in the dense targets."""
    return min(cells - 1, int(shape.y * cells)) * cells + min(cells - 1, int(shape.x * cells))


def cells_of_characters(text: Lettering, cells: int) -> list[np.ndarray]:
    """For each character the visual tokens that know it."""
    targets = letter_targets([text], cells * 2)
    found = []
    for i, character in enumerate(text.string):
        parity, turn = i % 2, 1 + i // 2
        here = (targets["spelling"][:, parity] == 1 + ALPHABET.index(character)) & (targets["turn"][:, parity] == turn)
        found.append(here.nonzero()[0])
    return found


def empty_cells(scene: Scene, cells: int) -> np.ndarray:
    """The visual tokens that show nothing but the background."""
    targets = dense_targets(scene, cells * 2)
    patches = (targets["cover"] == 0) & (targets["letter"] == 0)
    return patches.reshape(cells, 2, cells, 2).all((1, 3)).ravel().nonzero()[0]


class Pointer:
    """Turns the focus of answers into visual tokens, numbered through all pictures of a sample."""

    def __init__(self, scenes: Sequence[Scene], cells: int):
        self.cells = cells
        self.characters = [cells_of_characters(s.lettering, cells) if s.lettering else [] for s in scenes]
        self.empty = empty_cells(scenes[0], cells) if len(scenes) == 1 else np.array([], int)
        self.strings = [s.lettering.string if s.lettering else "" for s in scenes]

    def at(self, where: Seen) -> np.ndarray:
        return np.array([where.scene * self.cells**2 + cell_of(where.shape, self.cells)])

    def follow(self, answer: str, offsets: Sequence[tuple[int, int]], focus: Focus) -> list[np.ndarray | None]:
        """For each token of the answer the visual tokens it is about, or None."""
        ends = [(end, self.at(shape)) for end, shape in spans(answer, focus)]
        letters = self._letters(answer) | self._background(answer)
        told: list[np.ndarray | None] = []
        for start, _ in offsets:
            word = letters.get(start)
            told.append(word if word is not None else next((at for limit, at in ends if start < limit), None))
        return told

    def _letters(self, answer: str) -> dict[int, np.ndarray]:
        """Character of the answer -> visual tokens, where the answer quotes what a picture says."""
        for number, (string, cells) in enumerate(zip(self.strings, self.characters, strict=True)):
            start = answer.find(f'"{string}"') if string else -1
            if start >= 0:
                first = number * self.cells**2
                return {start + 1 + i: at + first for i, at in enumerate(cells) if len(at)}
            if string and answer.startswith("The text is") and cells:
                everywhere = np.unique(np.concatenate(cells)) + number * self.cells**2
                return dict.fromkeys(range(len(answer)), everywhere)
        return {}

    def _background(self, answer: str) -> dict[int, np.ndarray]:
        """Character of the answer -> visual tokens, where it tells of the background or ends without."""
        if not len(self.empty) or not answer.startswith(("The background is", "The picture shows")):
            return {}
        start = answer.rfind(" on a") if answer.endswith(" background.") else len(answer) - 1
        return dict.fromkeys(range(max(0, start) if "shows" in answer else 0, len(answer)), self.empty)
