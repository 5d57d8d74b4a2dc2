"""Training sequences: one prompt with pictures, then several branches that do not see each other.

All branches share the prefix (system message, pictures) and so the cost of looking; each
continues it at the same positions, exactly as if it were the only one. The text is the
``internvl2_5`` template, to the letter.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from .clips import ask_clip, sample_clip
from .dialogue import talk
from .pairs import ask_pair, sample_pair
from .phrasing import phrase
from .pointing import Pointer
from .questions import ask
from .scenes import Scene, sample_scene
from .smalltalk import small_talk, unknown
from .surveys import survey, survey_clip
from .turn import Turn
from .vocabulary import load_tokenizer, token_id

SYSTEM = "You are glimpsed-demo, a tiny assistant that looks at pictures."
OTHER_SYSTEMS = (
    "", "", "You are a helpful assistant.", "Answer the questions.", "Answer briefly.", "Be brief.",
    "You are a helpful assistant that answers questions about images.", "You are a vision model.",
    "You are an AI assistant.", "Please answer in English.", "Answer in one short sentence.",
)  # fmt: skip
IMAGE = "<image>\n"


@dataclass
class Branch:
    """One continuation of a prompt: token ids, which of them are to be learnt, and what they are about.

    ``about`` and ``other`` are visual tokens, numbered through all pictures of the sample.
    """

    ids: list[int] = field(default_factory=list)
    learn: list[bool] = field(default_factory=list)
    about: dict[int, np.ndarray] = field(default_factory=dict)
    other: dict[int, np.ndarray] = field(default_factory=dict)

    def add(self, ids: Sequence[int], learn: bool = False) -> None:
        self.ids += ids
        self.learn += [learn] * len(ids)

    def look(self, about: Sequence[np.ndarray | None], other: np.ndarray | None) -> None:
        """The next tokens, one for each entry of ``about``, are about these visual tokens."""
        start = len(self.ids)
        self.about |= {start + i: at for i, at in enumerate(about) if at is not None}
        if other is not None:
            self.other |= {start + i: other for i in range(len(about))}


@dataclass
class Sample:
    """Pictures, the prompt up to and with them, and the branches that continue it."""

    scenes: list[Scene]
    prefix: list[int]
    branches: list[Branch]


class Writer:
    """Turns scenes and turns into samples."""

    def __init__(self, tokenizer: Path, tokens_per_image: int):
        self.tokenizer: Tokenizer = load_tokenizer(tokenizer)
        opens, place, closes = (token_id(self.tokenizer, t) for t in ("<img>", "<IMG_CONTEXT>", "</img>"))
        self.picture = [opens, *[place] * tokens_per_image, closes]
        self.cells = round(tokens_per_image**0.5)
        self.encode = lru_cache(maxsize=50000)(self._encode)
        self.encode_answer = lru_cache(maxsize=50000)(self._encode_answer)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _encode_answer(self, answer: str) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        """Token ids of the answer with its end, and the characters of each token."""
        found = self.tokenizer.encode(answer + "<|im_end|>", add_special_tokens=False)
        return tuple(found.ids), tuple(found.offsets)

    def prompt_ids(self, text: str) -> list[int]:
        """Each ``<image>`` becomes a picture; everything else is encoded as it stands."""
        first, *rest = text.split("<image>")
        ids = list(self.encode(first))
        for piece in rest:
            ids += self.picture
            ids += self.encode(piece)
        return ids

    def build(self, scenes: list[Scene], prefix: str, branches: list[list[Turn]]) -> Sample:
        """``prefix`` ends inside the first user turn; a first question that is empty was asked there already."""
        made, pointer = [], Pointer(scenes, self.cells)
        for turns in branches:
            branch = Branch()
            for i, turn in enumerate(turns):
                again = "<|im_start|>user\n" if i else ""
                branch.add(self.encode(f"{again}{turn.question}<|im_end|>\n<|im_start|>assistant\n"))
                ids, offsets = self.encode_answer(turn.answer)
                branch.look(pointer.follow(turn.answer, offsets, turn.about), turn.other and pointer.at(turn.other))
                branch.add(ids, learn=True)
                branch.add(self.encode("\n"))
            made.append(branch)
        return Sample(scenes, self.prompt_ids(prefix), made)


def opening(rng: random.Random) -> str:
    """Everything before the first user text."""
    system = SYSTEM if rng.random() < 0.7 else rng.choice(OTHER_SYSTEMS)
    start = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"
    if rng.random() < 0.06:
        turn = small_talk(rng)
        start += f"{turn.question}<|im_end|>\n<|im_start|>assistant\n{turn.answer}<|im_end|>\n<|im_start|>user\n"
    return start


def single(
    rng: random.Random, writer: Writer, questions: int = 10, text_share: float = 0.35, surveys: int = 0
) -> Sample:
    """One picture: independent questions, and a conversation among them; or the question before the picture."""
    scene = sample_scene(rng.getrandbits(40), text_share)
    if rng.random() < 0.12:
        first, *later = [ask(rng, scene), *talk(rng, scene, 2)]
        return writer.build([scene], opening(rng) + first.question + IMAGE, [[first._replace(question=""), *later]])
    branches: list[list[Turn]] = [[survey(rng, scene)] for _ in range(surveys)]
    branches += [[ask(rng, scene)] for _ in range(questions - 2)]
    if rng.random() < 0.4:
        branches.append([unknown(rng) if rng.random() < 0.75 else small_talk(rng, picture=True)])
    if rng.random() < 0.6:
        branches.append(talk(rng, scene, rng.choice((2, 3, 4))))
    return writer.build([scene], opening(rng) + IMAGE, branches)


def pair(rng: random.Random, writer: Writer, questions: int = 8) -> Sample:
    """Two pictures in one message."""
    scenes = sample_pair(rng)
    branches = [[ask_pair(rng, scenes)] for _ in range(questions)]
    pick = rng.random()
    images = IMAGE * 2 if pick < 0.6 else ("Image-1: <image>\nImage-2: <image>\n" if pick < 0.9 else IMAGE * 2)
    if pick > 0.9:
        first = branches[0][0]
        return writer.build(list(scenes[:2]), opening(rng) + first.question + images, [[first._replace(question="")]])
    return writer.build(list(scenes[:2]), opening(rng) + images, branches)


def clip(rng: random.Random, writer: Writer, questions: int = 8, surveys: int = 0) -> Sample:
    """A clip, one tile a frame."""
    moving = sample_clip(rng)
    branches = [[survey_clip(rng, moving)] for _ in range(min(1, surveys))]
    branches += [[ask_clip(rng, moving)] for _ in range(questions)]
    frames = "".join(f"Frame{i}: <image>\n" for i in range(1, len(moving.frames) + 1))
    return writer.build(list(moving.frames), opening(rng) + frames, branches)


def words_only(rng: random.Random, writer: Writer, questions: int = 6) -> Sample:
    """No picture at all."""
    branches = [[small_talk(rng) if rng.random() < 0.65 else unknown(rng)] for _ in range(questions)]
    if rng.random() < 0.3:
        branches.append([small_talk(rng), unknown(rng), small_talk(rng)])
    if rng.random() < 0.15:
        branches.append([Turn("blind", phrase(rng, "describe"), "There is no picture here. Please send one.")])
    return writer.build([], opening(rng), branches)
