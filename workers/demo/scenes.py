"""What a picture shows, as data, and how pictures are sampled for training.

A scene is decided completely (objects, text, background, degradations) before a single
pixel is drawn: questions are answered from the scene, never from the pixels, so that
every training answer is true by construction.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .lettering import Lettering, sample_lettering

KINDS = ("circle", "square", "triangle", "star")
COLOURS = ("red", "green", "blue", "yellow", "white", "black", "orange", "purple")
RGB = {
    "red": ((255, 0, 0), (220, 20, 30), (200, 30, 40), (240, 50, 45)),
    "green": ((0, 128, 0), (0, 255, 0), (30, 160, 60), (40, 200, 70), (20, 100, 30)),
    "blue": ((0, 0, 255), (30, 60, 220), (20, 40, 160), (50, 110, 240), (40, 90, 200)),
    "yellow": ((255, 255, 0), (250, 230, 20), (240, 220, 50), (255, 240, 80)),
    "white": ((255, 255, 255), (250, 250, 250), (240, 240, 240)),
    "black": ((0, 0, 0), (10, 10, 10), (25, 25, 25)),
    "orange": ((255, 165, 0), (255, 140, 0), (245, 130, 20), (250, 150, 40)),
    "purple": ((128, 0, 128), (140, 40, 170), (110, 20, 140), (150, 60, 190)),
}
GREYS = ((128, 128, 128), (200, 200, 200), (90, 90, 90), (170, 170, 170))
SOFT = ((230, 240, 250), (250, 235, 220), (210, 230, 210), (60, 60, 80), (240, 225, 240), (180, 200, 220))
MAX_SHAPES = 5

Rgb = tuple[int, int, int]


@dataclass(frozen=True)
class Shape:
    """One object; ``x, y`` is its centre and ``rx, ry`` half its extent, as fractions of the picture."""

    kind: str
    colour: str
    x: float
    y: float
    rx: float
    ry: float
    rgb: Rgb
    angle: float = 0.0
    outline: Rgb | None = None

    @property
    def name(self) -> str:
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True)
class Background:
    """``colour`` is the name one may ask for, or None where no single name is fair."""

    colour: str | None
    top: Rgb
    bottom: Rgb
    sideways: bool = False


@dataclass(frozen=True)
class Finish:
    """Degradations a picture collects on its way: sensor noise, JPEG, a small original, hard edges."""

    noise: float = 0.0
    jpeg: int | None = None
    scale: float = 2.0


@dataclass(frozen=True)
class Scene:
    """``crowd`` is further lettering, only in pictures made for dense targets; no question is asked about those."""

    shapes: tuple[Shape, ...]
    lettering: Lettering | None
    background: Background
    finish: Finish
    aspect: float
    seed: int
    crowd: tuple[Lettering, ...] = ()


def jitter_rgb(rng: random.Random, rgb: Rgb, amount: int = 10) -> Rgb:
    """A nearby colour; half of the time the exact one, since people draw with exact colours."""
    if rng.random() < 0.5:
        return rgb
    r, g, b = (min(255, max(0, c + rng.randint(-amount, amount))) for c in rgb)
    return r, g, b


def contrast(a: Rgb, b: Rgb) -> float:
    """Rough perceptual distance (0..~765): enough to keep objects visible on their background."""
    return 0.6 * abs(a[0] - b[0]) + 1.2 * abs(a[1] - b[1]) + 0.5 * abs(a[2] - b[2])


def sample_background(rng: random.Random) -> Background:
    pick = rng.random()
    if pick < 0.32:
        name: str | None = "white"
    elif pick < 0.44:
        name = "black"
    elif pick < 0.56:
        name = "grey"
    elif pick < 0.78:
        name = rng.choice(COLOURS)
    else:
        name = None
    if name is None:
        base = jitter_rgb(rng, rng.choice(SOFT), 25)
    else:
        base = jitter_rgb(rng, rng.choice(GREYS if name == "grey" else RGB[name]), 6)
    if rng.random() < 0.8:
        return Background(name, base, base)
    shift = rng.choice((-1, 1)) * rng.randint(20, 70)
    r, g, b = (min(255, max(0, c + shift + rng.randint(-10, 10))) for c in base)
    return Background(None, base, (r, g, b), rng.random() < 0.5)


def sample_finish(rng: random.Random) -> Finish:
    noise = rng.uniform(2, 18) if rng.random() < 0.2 else 0.0
    jpeg = rng.randint(35, 95) if rng.random() < 0.25 else None
    pick = rng.random()
    scale = 2.0 if pick < 0.75 else (1.0 if pick < 0.9 else rng.uniform(0.6, 1.0))
    return Finish(noise, jpeg, scale)


def visible_rgb(rng: random.Random, colour: str, background: Background) -> Rgb | None:
    """A shade of ``colour`` that stands out from the background, if there is one."""
    for _ in range(3):
        rgb = jitter_rgb(rng, rng.choice(RGB[colour]))
        if min(contrast(rgb, background.top), contrast(rgb, background.bottom)) > 75:
            return rgb
    return None


def _radius(rng: random.Random, count: int) -> float:
    low, high = {1: (0.08, 0.38), 2: (0.08, 0.23), 3: (0.075, 0.17)}.get(count, (0.07, 0.145))
    return rng.uniform(low, high)


def _place(rng: random.Random, rx: float, ry: float) -> tuple[float, float]:
    """Mostly near the middle of one of nine regions, sometimes anywhere."""
    if rng.random() < 0.7:
        x = rng.choice((1, 3, 5)) / 6 + rng.uniform(-0.09, 0.09)
        y = rng.choice((1, 3, 5)) / 6 + rng.uniform(-0.09, 0.09)
    else:
        x, y = rng.random(), rng.random()
    return min(0.98 - rx, max(0.02 + rx, x)), min(0.98 - ry, max(0.02 + ry, y))


def _angle(rng: random.Random, kind: str) -> float:
    if kind == "circle" or rng.random() < 0.5:
        return 0.0
    return rng.uniform(-36, 36) if kind == "star" else rng.uniform(-15, 15)


def sample_shape(
    rng: random.Random, kind: str, colour: str, count: int, background: Background, aspect: float
) -> Shape | None:
    rgb = visible_rgb(rng, colour, background)
    if rgb is None:
        return None
    radius = _radius(rng, count)
    rx, ry = min(0.46, radius / aspect**0.5), min(0.46, radius * aspect**0.5)
    x, y = _place(rng, rx, ry)
    outline = rng.choice(((0, 0, 0), (60, 60, 60))) if rng.random() < 0.12 and colour != "black" else None
    return Shape(kind, colour, x, y, rx, ry, rgb, _angle(rng, kind), outline)


def overlaps(a: Shape, b: Shape) -> bool:
    return abs(a.x - b.x) < (a.rx + b.rx) * 1.02 + 0.01 and abs(a.y - b.y) < (a.ry + b.ry) * 1.02 + 0.01


def _hits_text(shape: Shape, text: Lettering | None) -> bool:
    if text is None:
        return False
    near_x = abs(shape.x - text.x) < shape.rx + text.width / 2 + 0.01
    return near_x and abs(shape.y - text.y) < shape.ry + text.height / 2 + 0.01


def _palette(rng: random.Random) -> tuple[list[str], list[str]]:
    """The kinds and colours a scene draws from; a short list gives repeated kinds, worth counting."""
    kinds, colours = list(KINDS), list(COLOURS)
    pick = rng.random()
    if pick < 0.2:
        kinds = rng.sample(kinds, rng.choice((1, 2)))
    elif pick < 0.4:
        colours = rng.sample(colours, rng.choice((1, 2, 3)))
    elif pick < 0.5:
        kinds, colours = rng.sample(kinds, 2), rng.sample(colours, 3)
    return kinds, colours


def sample_aspect(rng: random.Random) -> float:
    """Width over height of the original picture."""
    return 1.0 if rng.random() < 0.45 else 2.0 ** rng.uniform(-0.9, 0.9)


def sample_shapes(
    rng: random.Random, count: int, background: Background, aspect: float, text: Lettering | None = None
) -> tuple[Shape, ...]:
    """Up to ``count`` shapes that touch neither each other nor the text."""
    kinds, colours = _palette(rng)
    shapes: list[Shape] = []
    for _ in range(count * 12):
        if len(shapes) == count:
            break
        shape = sample_shape(
            rng, rng.choice(kinds), rng.choice(colours), max(count, 2 if text else 1), background, aspect
        )
        if shape and not _hits_text(shape, text) and not any(overlaps(shape, other) for other in shapes):
            shapes.append(shape)
    return tuple(shapes)


def sample_scene(seed: int, text_share: float = 0.4) -> Scene:
    """The scene of one seed: shapes only, text only, or both."""
    rng = random.Random(seed)
    background, finish, aspect = sample_background(rng), sample_finish(rng), sample_aspect(rng)
    text = None
    if rng.random() < text_share:
        alone = rng.random() < 0.6
        text = sample_lettering(rng, aspect, roomy=alone)
        text = next(text.painted(c, rgb) for c in rng.sample(COLOURS, 8) if (rgb := visible_rgb(rng, c, background)))
        count = 0 if alone else rng.choice((1, 1, 2, 3))
    else:
        count = rng.choices(range(6), (4, 20, 22, 20, 17, 17))[0]
    shapes = sample_shapes(rng, count, background, aspect, text)
    return Scene(shapes, text, background, finish, aspect, seed)


def _boxes_touch(a: Lettering, b: Lettering) -> bool:
    return abs(a.x - b.x) < (a.width + b.width) / 2 + 0.01 and abs(a.y - b.y) < (a.height + b.height) * 0.42


def sample_crowded(seed: int) -> Scene:
    """As many words and shapes as find room: many characters a picture teach reading sooner."""
    rng = random.Random(seed)
    background, finish, aspect = sample_background(rng), sample_finish(rng), sample_aspect(rng)
    words: list[Lettering] = []
    colours = [(c, rgb) for c in COLOURS if (rgb := visible_rgb(rng, c, background))]
    for _ in range(rng.choice((10, 30, 60))):
        word = sample_lettering(rng, aspect, roomy=False)
        if not any(_boxes_touch(word, other) for other in words):
            words.append(word.painted(*rng.choice(colours)))
    shapes: list[Shape] = []
    for _ in range(rng.choice((0, 10, 20))):
        shape = sample_shape(rng, rng.choice(KINDS), rng.choice(COLOURS), 5, background, aspect)
        clear = shape and not any(overlaps(shape, s) for s in shapes) and not any(_hits_text(shape, w) for w in words)
        if shape and clear and len(shapes) < MAX_SHAPES:
            shapes.append(shape)
    return Scene(tuple(shapes), None, background, finish, aspect, seed, tuple(words))
