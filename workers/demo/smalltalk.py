"""Talk that needs no picture, and honest "I do not know" for everything outside the model's small world."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

from .lettering import WORDS
from .phrasing import typed
from .scenes import COLOURS, KINDS
from .turn import Turn

NAME = "glimpsed-demo"
ANSWERS = {
    "who": f"I am {NAME}, a tiny model that answers questions about simple pictures.",
    "can": "I can name shapes and colours, count, tell positions, read short words and compare pictures.",
    "hello": "Hello! Show me a picture and ask me about it.",
    "thanks": "You are welcome!",
    "bye": "Goodbye!",
    "fine": "I am fine, thank you.",
    "blind": "There is no picture here. Please send one.",
    "unknown": "I do not know. I only know shapes, colours and short words.",
}


@cache
def _lines() -> dict[str, tuple[list[str], list[str]]]:
    """Key -> (training lines, held-out lines)."""
    table: dict[str, tuple[list[str], list[str]]] = {}
    key = ""
    for line in (Path(__file__).parent / "smalltalk.txt").read_text().splitlines():
        if line.startswith("["):
            key = line.strip("[]")
            table[key] = ([], [])
        elif line:
            table[key][line.startswith("~")].append(line.lstrip("~"))
    return table


def _fill(rng: random.Random, key: str, held: bool) -> str:
    train, kept = _lines()[key]
    line = rng.choice(kept if held and kept else train)
    nouns, nouns_kept = _lines()["nouns"]
    noun = rng.choice(nouns_kept if held else nouns)
    if "{shape}" in line:
        line = line.replace("{shape}", rng.choice(KINDS))
    if "{colour}" in line:
        line = line.replace("{colour}", rng.choice(COLOURS))
    if "{word}" in line:
        line = line.replace("{word}", rng.choice(WORDS))
    if "{n}" in line:
        line = line.replace("{n}", str(rng.randint(0, 99))).replace("{m}", str(rng.randint(0, 99)))
    article = "an" if noun[0] in "aeiou" else "a"
    return line.replace("{a_noun}", f"{article} {noun}").replace("{noun}", noun)


def small_talk(rng: random.Random, held: bool = False, picture: bool = False) -> Turn:
    """Who are you, hello, thanks..."""
    key = rng.choice(("who", "who", "can", "can", "hello", "hello", "thanks", "bye", "fine", "blind", "blind", "blind"))
    while picture and key == "blind":
        key = rng.choice(("who", "can", "thanks", "hello"))
    return Turn(key if key == "blind" else "talk", typed(rng, _fill(rng, key, held)), ANSWERS[key])


def unknown(rng: random.Random, held: bool = False) -> Turn:
    """A question from outside the model's world."""
    return Turn("unknown", typed(rng, _fill(rng, "unknown", held)), ANSWERS["unknown"])
