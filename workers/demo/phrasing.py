"""Ways to ask each question, and the small liberties people take when they type one."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

PICTURE = ("picture", "picture", "image", "image", "photo")
SPELLING = (("colour", "color"), ("centre", "center"), ("centre", "middle"), ("grey", "gray"))


@cache
def _phrases() -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Key -> (phrasings for training, phrasings kept for evaluation; those start with ``~`` in the file)."""
    table: dict[str, tuple[list[str], list[str]]] = {}
    key = ""
    for line in (Path(__file__).parent / "phrases.txt").read_text().splitlines():
        if line.startswith("["):
            key = line.strip("[]")
            table[key] = ([], [])
        elif line:
            table[key][line.startswith("~")].append(line.lstrip("~"))
    return {name: (tuple(train), tuple(held)) for name, (train, held) in table.items()}


def phrase(rng: random.Random, key: str, held_out: bool = False, **fill: str) -> str:
    """One phrasing of the question ``key`` with its blanks filled, typed the way somebody might type it."""
    train, held = _phrases()[key]
    text = rng.choice(held if held_out and held else train)
    return typed(rng, text.format(picture=rng.choice(PICTURE), **fill))


def typed(rng: random.Random, text: str) -> str:
    """Spelling variants, please, lower case, no question mark."""
    for ours, theirs in SPELLING:
        if ours in text and rng.random() < 0.4:
            text = text.replace(ours, theirs)
    pick = rng.random()
    if pick < 0.05:
        text = "Please " + text[0].lower() + text[1:]
    elif pick < 0.09:
        text = text.rstrip(".") + " please" if not text.endswith("?") else text[:-1] + ", please?"
    elif pick < 0.13:
        opening = rng.choice(("Can you tell me: ", "Tell me, ", "Please tell me: ", "Now, ", "OK. ", "Hi! ", "Hey, "))
        text = opening + text[0].lower() + text[1:]
    pick = rng.random()
    if pick < 0.2:
        text = text.lower()
    elif pick < 0.22:
        text = text.upper()
    if rng.random() < 0.2:
        text = text.rstrip("?.")
    elif rng.random() < 0.02:
        text += rng.choice((" ", "!", "?", " ?"))
    return text
