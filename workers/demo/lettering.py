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
    PILLOWS_OWN := "Aileron",
)
FONT_WEIGHTS = (34, 28, 6, 5, 6, 5, 6, 10)
EM = 40
EM_HEIGHT = 1.17
ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
MAX_LETTERS = 6
WORDS = tuple((Path(__file__).parent / "words.txt").read_text().split())
_KNOWN = frozenset(word.lower() for word in WORDS)


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

    @property
    def is_usual(self) -> bool:
        """A word or a number, as people print them, and not letters at random."""
        return self.string.isdigit() or self.string.lower() in _KNOWN

    def edges(self) -> list[float]:
        """Where each character begins, and where the last one ends: what the dense training labels point at."""
        font = load_font(self.font)
        lengths = [font.getlength(self.string[:i]) for i in range(len(self.string) + 1)]
        return [self.x + (length / lengths[-1] - 0.5) * self.width for length in lengths]


@cache
def load_font(name: str) -> ImageFont.FreeTypeFont:
    if name == PILLOWS_OWN:
        font = ImageFont.load_default(EM)
        assert isinstance(font, ImageFont.FreeTypeFont)
        return font
    for folder in FONT_FOLDERS:
        if (path := Path(folder) / name).exists():
            return ImageFont.truetype(str(path), EM)
    return ImageFont.truetype(name, EM)


def sample_string(rng: random.Random) -> str:
    """Real words teach what people print; random strings keep the model from guessing instead of reading."""
    pick = rng.random()
    if pick < 0.46:
        word = rng.choice(WORDS)
        return rng.choice((word.upper(), word.upper(), word.upper(), word.lower(), word.capitalize()))
    if pick < 0.76:
        return "".join(rng.choices(string.digits, k=rng.choice((1, 2, 2, 3, 3, 4, 4, 5, 6))))
    letters = "".join(rng.choices(string.ascii_lowercase, k=rng.choice((1, 2, 3, 3, 4, 4, 5, 5, 6))))
    if pick < 0.97:
        return rng.choice((letters.upper(), letters.upper(), letters, letters.capitalize()))
    return "".join(rng.choices(ALPHABET, k=rng.choice((2, 3, 4, 5))))


def sample_lettering(rng: random.Random, aspect: float, roomy: bool) -> Lettering:
    """A word of at least about a sixth of the picture's height, as large as the room allows; smaller in a crowd."""
    text = sample_string(rng)
    font = rng.choices(FONTS, FONT_WEIGHTS)[0]
    ratio = load_font(font).getlength(text) / EM / aspect
    tallest = min(0.62 if roomy else 0.34, 0.94 / ratio)
    smallest = min(0.2 if roomy else 0.16, tallest)
    usual = tallest if rng.random() < 0.6 else min(0.3, tallest)
    em = rng.uniform(smallest, max(smallest, usual))
    width, height = ratio * em, em * EM_HEIGHT
    x = 0.5 if roomy and rng.random() < 0.4 else rng.uniform(width / 2 + 0.02, 0.98 - width / 2)
    y = 0.5 if roomy and rng.random() < 0.4 else rng.uniform(height / 2, 1 - height / 2)
    return Lettering(text, font, x, y, width, height)
