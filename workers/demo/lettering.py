"""Printed words: which characters, how large, where, and where each character ends up."""

from __future__ import annotations

import random
import string
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from PIL import ImageFont

FONT_FOLDERS = ("/usr/share/fonts/truetype/dejavu", "/usr/share/fonts/dejavu", "/usr/share/fonts/TTF")
FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSansCondensed.ttf",
)
FONT_WEIGHTS = (35, 30, 8, 7, 7, 6, 7)
EM = 40
ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
MAX_LETTERS = 6
WORDS = tuple((Path(__file__).parent / "words.txt").read_text().split())


@dataclass(frozen=True)
class Lettering:
    """A printed word; the box ``x, y, width, height`` (centre, extent) is in fractions of the picture."""

    string: str
    font: str
    x: float
    y: float
    width: float
    height: float
    colour: str = ""
    rgb: tuple[int, int, int] = (0, 0, 0)

    def painted(self, colour: str, rgb: tuple[int, int, int]) -> Lettering:
        return replace(self, colour=colour, rgb=rgb)

    def centres(self) -> list[tuple[float, float]]:
        """The middle of each character, which the dense training labels point at."""
        font = load_font(self.font)
        total = font.getlength(self.string)
        spots = []
        for i in range(len(self.string)):
            before, after = font.getlength(self.string[:i]), font.getlength(self.string[: i + 1])
            spots.append((self.x + ((before + after) / 2 / total - 0.5) * self.width, self.y))
        return spots


@cache
def load_font(name: str) -> ImageFont.FreeTypeFont:
    for folder in FONT_FOLDERS:
        if (path := Path(folder) / name).exists():
            return ImageFont.truetype(str(path), EM)
    return ImageFont.truetype(name, EM)


def sample_string(rng: random.Random) -> str:
    """Real words teach what people print; random strings keep the model from guessing instead of reading."""
    pick = rng.random()
    if pick < 0.42:
        word = rng.choice(WORDS)
        return rng.choice(
            (word.upper(), word.upper(), word.lower(), word.lower(), word.capitalize(), word.capitalize())
        )
    if pick < 0.64:
        return "".join(rng.choices(string.digits, k=rng.choice((1, 2, 2, 3, 3, 4, 4, 5, 6))))
    letters = "".join(rng.choices(string.ascii_lowercase, k=rng.choice((1, 2, 3, 3, 4, 4, 5, 5, 6))))
    if pick < 0.94:
        return rng.choice((letters.upper(), letters, letters.capitalize()))
    return "".join(rng.choices(ALPHABET, k=rng.choice((2, 3, 4, 5))))


def sample_lettering(rng: random.Random, aspect: float, roomy: bool) -> Lettering:
    """A word of at least about a sixth of the picture's height, as large as the room allows."""
    text = sample_string(rng)
    font = rng.choices(FONTS, FONT_WEIGHTS)[0]
    ratio = load_font(font).getlength(text) / EM / aspect
    tallest = min(0.62 if roomy else 0.32, 0.94 / ratio)
    em = (
        rng.uniform(min(0.16, tallest), tallest)
        if rng.random() < 0.6
        else rng.uniform(min(0.16, tallest), min(0.28, tallest))
    )
    width, height = ratio * em, em * 1.17
    x = rng.uniform(width / 2 + 0.02, 0.98 - width / 2) if rng.random() < 0.6 else 0.5
    y = rng.uniform(height / 2, 1 - height / 2) if rng.random() < 0.6 else 0.5
    return Lettering(text, font, x, y, width, height)
