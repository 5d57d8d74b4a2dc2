"""Two pictures in one message: which has more, what is the same, what changed."""

from __future__ import annotations

import random
from dataclasses import replace

from . import facts
from .facts import article, capital
from .phrasing import phrase
from .pointing import Seen, seen
from .questions import _sorts
from .scenes import COLOURS, KINDS, Scene, Shape, overlaps, sample_scene, sample_shapes, visible_rgb
from .turn import Turn

ORDINALS = ("first", "second")
MOVES = {"to the left": (-1, 0), "to the right": (1, 0), "up": (0, -1), "down": (0, 1)}


def sample_pair(rng: random.Random) -> tuple[Scene, Scene, str | None]:
    """Two scenes and, where the second is the first with one change, that change in words."""
    first = sample_scene(rng.getrandbits(40), text_share=0.08)
    pick = rng.random()
    if pick < 0.3 or first.lettering:
        return first, sample_scene(rng.getrandbits(40), text_share=0.3 if first.lettering else 0.0), None
    if pick < 0.5:
        return _single(rng, first), _single(rng, sample_scene(rng.getrandbits(40), text_share=0.0)), None
    changed = _change(rng, first)
    if changed is None:
        return first, replace(first, seed=rng.getrandbits(40)), "Nothing changed."
    return first, replace(first, shapes=changed[0], seed=rng.getrandbits(40)), changed[1]


def _changed(first: Scene, second: Scene, turn: Turn) -> Turn:
    """The answer looks at the shape that is not in the other picture, before and after."""
    gone = [s for s in first.shapes if s not in second.shapes]
    new = [s for s in second.shapes if s not in first.shapes]
    about = seen(*gone) if gone else seen(*new, scene=1)
    return turn._replace(about=about, other=Seen(new[0], 1) if new else None)


def _single(rng: random.Random, scene: Scene) -> Scene:
    shapes: tuple[Shape, ...] = ()
    while not shapes:
        shapes = sample_shapes(rng, 1, scene.background, scene.aspect)
    return replace(scene, shapes=shapes)


def _change(rng: random.Random, scene: Scene) -> tuple[tuple[Shape, ...], str] | None:
    """One change to one shape, or None: the caller then keeps the picture as it is."""
    sort = rng.choice(("same", "colour", "colour", "kind", "move", "move", "add", "remove"))
    shapes = list(scene.shapes)
    if sort == "add" and len(shapes) < 5:
        for new in sample_shapes(rng, 1, scene.background, scene.aspect):
            new = replace(new, rx=min(new.rx, 0.14), ry=min(new.ry, 0.14))
            if not any(overlaps(new, s) for s in shapes):
                return (*shapes, new), f"{capital(article(new.name))} was added."
    candidates = facts.unique(scene)
    if not candidates or sort == "same":
        return None
    shape = rng.choice(candidates)
    i = shapes.index(shape)
    if sort == "remove":
        return (*shapes[:i], *shapes[i + 1 :]), f"The {shape.name} is gone."
    if sort == "kind":
        kind = rng.choice([k for k in KINDS if k != shape.kind])
        shapes[i] = replace(shape, kind=kind)
        return tuple(shapes), f"The {shape.name} became {article(shapes[i].name)}."
    if sort == "colour":
        colour = rng.choice([c for c in COLOURS if c != shape.colour])
        rgb = visible_rgb(rng, colour, scene.background)
        if rgb is None:
            return None
        shapes[i] = replace(shape, colour=colour, rgb=rgb)
        return tuple(shapes), f"The {shape.name} became {article(shapes[i].name)}."
    return _move(rng, shapes, i)


def _move(rng: random.Random, shapes: list[Shape], i: int) -> tuple[tuple[Shape, ...], str] | None:
    shape = shapes[i]
    for way, (dx, dy) in rng.sample(list(MOVES.items()), 4):
        far = rng.uniform(0.22, 0.6)
        x, y = shape.x + dx * far, shape.y + dy * far
        moved = replace(shape, x=x, y=y)
        inside = shape.rx < x < 1 - shape.rx and shape.ry < y < 1 - shape.ry
        if inside and not any(overlaps(moved, s) for j, s in enumerate(shapes) if j != i):
            shapes[i] = moved
            return tuple(shapes), f"The {shape.name} moved {way}."
    return None


def _yes(same: bool, shared: str, first: str, second: str) -> str:
    return f"Yes, both are {shared}." if same else f"No, the first is {first} and the second is {second}."


def _which(a: int, b: int, more: str, things: str) -> str:
    if a == b:
        return f"Both pictures have the same number of {things}."
    return f"The {'first' if a > b else 'second'} picture has {more} {things}."


def _about_one(rng: random.Random, scene: Scene, i: int, held: bool) -> Turn | None:
    which, sort = ORDINALS[i], rng.choice(("count in", "describe in", "colour in"))
    if scene.lettering and rng.random() < 0.8:
        return Turn("pair", phrase(rng, "read in", held, which=which), f'It says "{scene.lettering.string}".')
    if sort == "count in":
        answer = capital(facts.there_are(len(scene.shapes), "shape"))
        return Turn("pair", phrase(rng, sort, held, which=which), f"{answer} in the {which} picture.")
    if sort == "describe in":
        answer = f"The {which} picture shows {facts.contents(scene)}."
        about = seen(*facts.ordered(scene.shapes), scene=i)
        return Turn("pair", phrase(rng, sort, held, which=which), answer, about)
    if not scene.shapes:
        return None
    kind = rng.choice(scene.shapes).kind
    shapes = facts.matching(scene, kind, None)
    if len(shapes) != 1:
        return None
    question = phrase(rng, sort, held, which=which, thing=kind)
    return Turn("pair", question, f"The {kind} is {shapes[0].colour}.", seen(*shapes, scene=i))


def _singles(rng: random.Random, a: Shape, b: Shape, held: bool) -> Turn:
    if rng.random() < 0.5:
        key, answer = "same colour", _yes(a.colour == b.colour, a.colour, a.colour, b.colour)
    else:
        key, answer = "same shape", _yes(a.kind == b.kind, a.kind + "s", article(a.kind), article(b.kind))
    return Turn("pair", phrase(rng, key, held), answer, seen(a), Seen(b, 1))


def _which_has(rng: random.Random, first: Scene, second: Scene, held: bool) -> Turn:
    kind, colour = _sorts(rng, rng.choice((first, second)), 0.9)
    name = facts.noun(kind, colour)
    have = [bool(facts.matching(s, kind, colour)) for s in (first, second)]
    if all(have):
        answer = f"Both pictures show {article(name)}."
    elif any(have):
        answer = f"The {ORDINALS[have.index(True)]} picture shows {article(name)}."
    else:
        answer = f"Neither picture shows {article(name)}."
    return Turn("pair", phrase(rng, "which has", held, a_thing=article(name)), answer)


def ask_pair(rng: random.Random, pair: tuple[Scene, Scene, str | None], held: bool = False) -> Turn:
    """A fair question about two pictures."""
    first, second, change = pair
    a, b = len(first.shapes), len(second.shapes)
    while True:
        pick = rng.random()
        if change and pick < 0.4:
            return _changed(first, second, Turn("pair", phrase(rng, "changed", held), change))
        if a == b == 1 and not first.lettering and not second.lettering and pick < 0.65:
            return _singles(rng, first.shapes[0], second.shapes[0], held)
        sort = rng.choice(
            ("more", "more", "fewer", "things", "same", "each", "identical", "compare", "has", "one", "one")
        )
        if sort == "more":
            return Turn("pair", phrase(rng, "more shapes", held), _which(a, b, "more", "shapes"))
        if sort == "fewer":
            return Turn("pair", phrase(rng, "fewer shapes", held), _which(b, a, "fewer", "shapes"))
        if sort == "things":
            kind, colour = _sorts(rng, rng.choice((first, second)), 0.9)
            things = facts.noun(kind, colour) + "s"
            answer = _which(
                len(facts.matching(first, kind, colour)), len(facts.matching(second, kind, colour)), "more", things
            )
            return Turn("pair", phrase(rng, "more things", held, things=things), answer)
        if sort == "same":
            answer = f"Yes, both have {a or 'no'} {facts.plural('shape', a)}."
            answer = answer if a == b else f"No, the first has {a or 'no'} and the second has {b or 'no'}."
            return Turn("pair", phrase(rng, "same count", held), answer)
        if sort == "each":
            answer = f"The first picture has {a or 'no'} {facts.plural('shape', a)} and the second has {b or 'no'}."
            return Turn("pair", phrase(rng, "counts each", held), answer)
        if sort == "identical":
            same = change == "Nothing changed."
            answer = "Yes, the pictures are the same." if same else "No, the pictures are different."
            return Turn("pair", phrase(rng, "same picture", held), answer)
        if sort == "compare":
            answer = (
                f"The first picture shows {facts.contents(first)}. The second picture shows {facts.contents(second)}."
            )
            about = seen(*facts.ordered(first.shapes)) + seen(*facts.ordered(second.shapes), scene=1)
            return Turn("pair", phrase(rng, "compare", held), answer, about)
        if sort == "has":
            return _which_has(rng, first, second, held)
        i = rng.randrange(2)
        if turn := _about_one(rng, (first, second)[i], i, held):
            return turn
