"""Questions about one picture, with the true answers.

Each ``ask_*`` function returns a turn, or None where the scene allows no fair question
of that sort. Answers keep one form per skill, so that they are easy to check.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from . import facts
from .facts import AREAS, SIDES, article, capital
from .phrasing import phrase
from .pointing import Focus, Seen, seen
from .reading import ask_read, ask_text
from .scenes import COLOURS, KINDS, Scene, Shape
from .turn import Turn

Asker = Callable[[random.Random, Scene, bool], Turn | None]
THINGS = {None: ("shapes", "shapes", "objects", "things")}


def _sorts(rng: random.Random, scene: Scene, present: float) -> tuple[str | None, str | None]:
    """A kind, a colour or both; taken from the scene with probability ``present``."""
    kind, colour = rng.choice(KINDS), rng.choice(COLOURS)
    if scene.shapes and rng.random() < present:
        shape = rng.choice(scene.shapes)
        kind, colour = shape.kind, shape.colour
    elif scene.shapes and rng.random() < 0.6:  # near misses: right kind, wrong colour, or the other way round
        shape = rng.choice(scene.shapes)
        kind, colour = (shape.kind, colour) if rng.random() < 0.5 else (kind, shape.colour)
    pick = rng.random()
    return (kind, None) if pick < 0.35 else ((None, colour) if pick < 0.6 else (kind, colour))


def ask_total(rng: random.Random, scene: Scene, held: bool) -> Turn:
    question = phrase(rng, "count", held, things=rng.choice(THINGS[None]))
    return Turn("count", question, capital(facts.there_are(len(scene.shapes), "shape")) + ".")


def ask_count(rng: random.Random, scene: Scene, held: bool) -> Turn:
    kind, colour = _sorts(rng, scene, 0.75)
    name = facts.noun(kind, colour)
    asked = name if kind or rng.random() < 0.5 else name.replace("shape", rng.choice(("object", "thing")))
    question = phrase(rng, "count", held, things=asked + "s")
    return Turn("count", question, capital(facts.there_are(len(facts.matching(scene, kind, colour)), name)) + ".")


def ask_exists(rng: random.Random, scene: Scene, held: bool) -> Turn:
    kind, colour = _sorts(rng, scene, 0.5)
    name, have = facts.noun(kind, colour), facts.matching(scene, kind, colour)
    count, about = len(have), seen(*have[:1])
    if kind is None and rng.random() < 0.6:
        question = phrase(rng, "anything", held, colour=str(colour))
    elif rng.random() < 0.3:
        question = phrase(rng, "exists many", held, things=name + "s")
        return Turn("exists", question, f"{'Yes' if count else 'No'}, {facts.there_are(count, name)}.", about)
    else:
        question = phrase(rng, "exists", held, a_thing=article(name))
    answer = f"Yes, there is {article(name)}." if count else f"No, there is no {name}."
    return Turn("exists", question, answer, about)


def ask_colour(rng: random.Random, scene: Scene, held: bool) -> Turn | None:
    if not scene.shapes or rng.random() < 0.07:
        kind = rng.choice(KINDS)
    else:
        kind = rng.choice(scene.shapes).kind
    shapes = facts.matching(scene, kind, None)
    if not shapes:
        return Turn("colour", phrase(rng, "colour", held, thing=kind), f"There is no {kind}.")
    colours = facts.join(facts.colours_of(shapes))
    if len(shapes) == 1:
        return Turn("colour", phrase(rng, "colour", held, thing=kind), f"The {kind} is {colours}.", seen(*shapes))
    return Turn("colour", phrase(rng, "colours many", held, things=kind + "s"), f"The {kind}s are {colours}.")


def ask_shape(rng: random.Random, scene: Scene, held: bool) -> Turn | None:
    colour = rng.choice(scene.shapes).colour if scene.shapes and rng.random() < 0.94 else rng.choice(COLOURS)
    shapes = facts.matching(scene, None, colour)
    question = phrase(rng, "shape", held, colour=colour)
    if not shapes:
        return Turn("shape", question, f"There is no {colour} shape.")
    if len(shapes) == 1:
        return Turn("shape", question, f"The {colour} shape is {article(shapes[0].kind)}.", seen(*shapes))
    shapes = facts.ordered(shapes)
    answer = f"The {colour} shapes are {facts.join([article(s.kind) for s in shapes])}."
    return Turn("shape", question, answer, seen(*shapes))


def ask_only(rng: random.Random, scene: Scene, held: bool) -> Turn | None:
    """Questions that need no name because there is only one shape."""
    if len(scene.shapes) != 1 or scene.lettering:
        return None
    shape, pick = scene.shapes[0], rng.random()
    if pick < 0.35:
        return Turn("shape", phrase(rng, "it shape", held), f"It is {article(shape.kind)}.", seen(shape))
    if pick < 0.65:
        return Turn("colour", phrase(rng, "it colour", held), f"It is {shape.colour}.", seen(shape))
    if pick < 0.8 and (name := facts.area(shape)):
        return Turn("where", phrase(rng, "where it", held), f"It is {AREAS[name]}.", seen(shape))
    return Turn("shape", phrase(rng, "it", held), f"It is {article(shape.name)}.", seen(shape))


def _one(rng: random.Random, scene: Scene) -> tuple[Shape, str] | None:
    """A shape that can be named without doubt, and that name."""
    shapes = facts.unique(scene)
    if not shapes:
        return None
    shape = rng.choice(shapes)
    return shape, facts.reference(scene, shape, rng.random() < 0.6)


def ask_where(rng: random.Random, scene: Scene, held: bool) -> Turn | None:
    if not (found := _one(rng, scene)) or (name := facts.area(found[0])) is None:
        return None
    return Turn(
        "where", phrase(rng, "where", held, thing=found[1]), f"The {found[1]} is {AREAS[name]}.", seen(found[0])
    )


def ask_side(rng: random.Random, scene: Scene, held: bool) -> Turn | None:
    if not (found := _one(rng, scene)):
        return None
    shape, thing = found
    if rng.random() < 0.5:
        where, key = facts.third(shape.x), "left or right"
        words = ("on the left", "in the centre", "on the right")
    else:
        where, key = facts.third(shape.y), "top or bottom"
        words = ("at the top", "in the centre", "at the bottom")
    if where is None:
        return None
    return Turn("where", phrase(rng, key, held, thing=thing), f"The {thing} is {words[where]}.", seen(shape))


def ask_is_in_area(rng: random.Random, scene: Scene, held: bool) -> Turn | None:
    if not (found := _one(rng, scene)) or (true := facts.area(found[0])) is None:
        return None
    shape, thing = found
    name = rng.choice((true, *AREAS)) if rng.random() < 0.5 else rng.choice([true, *true.split()])
    verdict = facts.in_area(shape, name)
    if verdict is None:
        return None
    answer = f"Yes, the {thing} is {AREAS[name]}." if verdict else f"No, the {thing} is {AREAS[true]}."
    return Turn("where", phrase(rng, "is in area", held, thing=thing, area=AREAS[name]), answer, seen(shape))


def ask_area(rng: random.Random, scene: Scene, held: bool) -> Turn | None:
    name = rng.choice(tuple(AREAS))
    if scene.shapes and rng.random() < 0.7 and (true := facts.area(rng.choice(scene.shapes))):
        name = rng.choice([true, true, *true.split()])
    verdicts = [facts.in_area(s, name) for s in scene.shapes]
    if None in verdicts or scene.lettering:
        return None
    inside = facts.ordered(s for s, v in zip(scene.shapes, verdicts, strict=True) if v)
    question = phrase(rng, "what in area", held, area=AREAS[name])
    if not inside:
        return Turn("area", question, f"There is nothing {AREAS[name]}.")
    answer = f"{capital(facts.named(inside))} {'is' if len(inside) == 1 else 'are'} {AREAS[name]}."
    return Turn("area", question, answer, seen(*inside))


def beside_answer(scene: Scene, side: str, shape: Shape, thing: str) -> tuple[str, Focus] | None:
    shapes = facts.beside(scene, side, shape)
    if shapes is None:
        return None
    if not shapes:
        return f"There is nothing {SIDES[side]} {thing}.", ()
    verb = "is" if len(shapes) == 1 else "are"
    return f"{capital(facts.named(shapes))} {verb} {SIDES[side]} {thing}.", seen(*shapes)


def _typed_side(rng: random.Random, side: str) -> str:
    """``left of`` and ``under`` as well as ``to the left of`` and ``below``."""
    other = {"left": ("left of", "on the left of"), "right": ("right of", "on the right of")}
    return rng.choice(
        (SIDES[side], *other.get(side, {"above": ("above", "over"), "below": ("below", "under")}.get(side, ())))
    )


def ask_beside(rng: random.Random, scene: Scene, held: bool) -> Turn | None:
    if len(scene.shapes) < 2 or scene.lettering or not (found := _one(rng, scene)):
        return None
    shape, thing = found
    sides = [side for side in SIDES if any(facts.stands(s, side, shape) for s in scene.shapes if s is not shape)]
    side = rng.choice(sides if sides and rng.random() < 0.75 else tuple(SIDES))
    answer = beside_answer(scene, side, shape, f"the {thing}")
    question = phrase(rng, "beside", held, side=_typed_side(rng, side), thing=thing)
    return Turn("relation", question, *answer, Seen(shape)) if answer else None


def ask_relative(rng: random.Random, scene: Scene, held: bool) -> Turn | None:
    shapes = facts.unique(scene)
    if len(shapes) < 2:
        return None
    a, b = rng.sample(shapes, 2)
    thing, other = (facts.reference(scene, s, rng.random() < 0.6) for s in (a, b))
    verdicts = {side: facts.stands(a, side, b) for side in SIDES}
    if rng.random() < 0.6:
        side = rng.choice(tuple(SIDES))
        if verdicts[side] is None:
            return None
        words = {"thing": thing, "a_thing": article(thing), "other": other, "side": _typed_side(rng, side)}
        answer = f"Yes, the {thing} is {SIDES[side]} the {other}." if verdicts[side] else None
        answer = answer or f"No, the {thing} is not {SIDES[side]} the {other}."
        return Turn("relation", phrase(rng, "is beside", held, **words), answer, seen(a), Seen(b))
    if None in verdicts.values() or not any(verdicts.values()):
        return None
    sides = [SIDES[side] for side in ("above", "below", "left", "right") if verdicts[side]]
    answer = f"The {thing} is {' and '.join(sides)} the {other}."
    return Turn("relation", phrase(rng, "relative", held, thing=thing, other=other), answer, seen(a), Seen(b))


def ask_extreme(rng: random.Random, scene: Scene, held: bool) -> Turn | None:
    if len(scene.shapes) < 2:
        return None
    by_size = sorted(scene.shapes, key=lambda s: s.rx * s.ry)
    word = rng.choice(("biggest", "smallest"))
    best, next_best = (by_size[-1], by_size[-2]) if word == "biggest" else (by_size[1], by_size[0])
    if best.rx * best.ry < 1.6 * next_best.rx * next_best.ry:
        return None
    shape = best if word == "biggest" else next_best
    return Turn("size", phrase(rng, word, held), f"The {word} shape is the {shape.name}.", seen(shape))


def ask_background(rng: random.Random, scene: Scene, held: bool) -> Turn | None:
    colour = scene.background.colour
    return Turn("background", phrase(rng, "background", held), f"The background is {colour}.") if colour else None


def ask_describe(rng: random.Random, scene: Scene, held: bool) -> Turn | None:
    if len(scene.shapes) == 1 and not scene.lettering and facts.area(scene.shapes[0]) is None:
        return None
    about = seen(*facts.ordered(scene.shapes))
    return Turn("describe", phrase(rng, "describe", held), facts.description(scene), about)


def ask_list(rng: random.Random, scene: Scene, held: bool) -> Turn | None:
    if not scene.shapes:
        return Turn("list", phrase(rng, "list shapes", held), "I see no shapes.")
    if rng.random() < 0.6:
        shapes = facts.ordered(scene.shapes)
        return Turn("list", phrase(rng, "list shapes", held), f"I see {facts.named(shapes)}.", seen(*shapes))
    return Turn(
        "list", phrase(rng, "list colours", held), f"The shapes are {facts.join(facts.colours_of(scene.shapes))}."
    )


SHAPE_ASKERS: tuple[tuple[Asker, float], ...] = (
    (ask_total, 1.2), (ask_count, 1.6), (ask_exists, 1.6), (ask_colour, 1.6), (ask_shape, 1.4), (ask_only, 2.0),
    (ask_where, 2.4), (ask_side, 0.9), (ask_is_in_area, 0.8), (ask_area, 1.2), (ask_beside, 1.8), (ask_relative, 1.2),
    (ask_extreme, 0.5), (ask_background, 1.6), (ask_describe, 2.2), (ask_list, 0.6), (ask_read, 0.3),
)  # fmt: skip
TEXT_ASKERS: tuple[tuple[Asker, float], ...] = (
    (ask_read, 6.0), (ask_text, 2.6), (ask_describe, 1.0), (ask_total, 0.5), (ask_count, 0.4), (ask_exists, 0.5),
    (ask_colour, 0.5), (ask_shape, 0.4), (ask_where, 0.4), (ask_background, 0.6),
)  # fmt: skip


def ask(rng: random.Random, scene: Scene, held: bool = False) -> Turn:
    """A fair question about the scene, whichever skill it falls to."""
    table = TEXT_ASKERS if scene.lettering else SHAPE_ASKERS
    askers, weights = zip(*table, strict=True)
    while True:
        if turn := rng.choices(askers, weights)[0](rng, scene, held):
            return turn
