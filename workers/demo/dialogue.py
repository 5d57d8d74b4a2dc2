"""Several turns about one picture: "it" refers to the shape the last turn was about."""

from __future__ import annotations

import random

from . import facts
from .facts import AREAS, SIDES, article
from .phrasing import phrase, typed
from .pointing import Seen, seen
from .questions import _one, _typed_side, ask, beside_answer
from .scenes import Scene, Shape
from .smalltalk import small_talk, unknown
from .turn import Turn


def _opening(rng: random.Random, scene: Scene, shape: Shape, thing: str, held: bool) -> Turn | None:
    """A turn that puts one shape in focus."""
    pick = rng.random()
    if pick < 0.35:
        question = phrase(rng, "exists", held, a_thing=article(shape.name))
        return Turn("exists", question, f"Yes, there is {article(shape.name)}.", seen(shape))
    if pick < 0.7 and thing == shape.kind:
        return Turn("colour", phrase(rng, "colour", held, thing=thing), f"The {thing} is {shape.colour}.", seen(shape))
    if len(facts.matching(scene, None, shape.colour)) == 1 and pick < 0.85:
        question = phrase(rng, "shape", held, colour=shape.colour)
        return Turn("shape", question, f"The {shape.colour} shape is {article(shape.kind)}.", seen(shape))
    if name := facts.area(shape):
        return Turn("where", phrase(rng, "where", held, thing=thing), f"The {thing} is {AREAS[name]}.", seen(shape))
    return None


def _follow(rng: random.Random, scene: Scene, shape: Shape, held: bool) -> Turn | None:
    """A turn that calls the shape in focus "it"."""
    pick = rng.random()
    if pick < 0.25:
        return Turn("follow", phrase(rng, "it colour", held), f"It is {shape.colour}.", seen(shape))
    if pick < 0.45:
        return Turn("follow", phrase(rng, "it shape", held), f"It is {article(shape.kind)}.", seen(shape))
    if pick < 0.65:
        name = facts.area(shape)
        if name is None:
            return None
        return Turn("follow", phrase(rng, "where it", held), f"It is {AREAS[name]}.", seen(shape))
    side = rng.choice(tuple(SIDES))
    answer = beside_answer(scene, side, shape, "it")
    if answer is None:
        return None
    return Turn("follow", phrase(rng, "beside it", held, side=_typed_side(rng, side)), *answer, Seen(shape))


def _and_the(rng: random.Random, scene: Scene, last: Turn, shape: Shape) -> tuple[Turn, Shape] | None:
    """ "And the square?" after a question for a colour or a place."""
    others = [s for s in facts.unique(scene) if s is not shape]
    if not others or last.skill not in ("colour", "where") or not last.answer.startswith("The "):
        return None
    other = rng.choice(others)
    thing = facts.reference(scene, other, last.skill == "colour" or rng.random() < 0.5)
    if last.skill == "colour" and thing != other.kind:
        return None
    name = facts.area(other)
    if last.skill == "where" and (name is None or "Is " in last.question[:3]):
        return None
    said = other.colour if last.skill == "colour" else AREAS[str(name)]
    question = rng.choice(
        (f"And the {thing}?", f"And the {thing}?", f"What about the {thing}?", f"And where is the {thing}?")
    )
    if last.skill == "colour":
        question = question.replace("And where is the", "And what colour is the")
    return Turn(last.skill, typed(rng, question), f"The {thing} is {said}.", seen(other)), other


def talk(rng: random.Random, scene: Scene, turns: int, held: bool = False) -> list[Turn]:
    """A conversation of up to ``turns`` turns, at times interrupted by small talk."""
    said: list[Turn] = []
    focus: Shape | None = None
    for _ in range(turns * 3):
        if len(said) == turns:
            break
        pick = rng.random()
        if focus and pick < 0.6:
            if rng.random() < 0.35 and (pair := _and_the(rng, scene, said[-1], focus)):
                said.append(pair[0])
                focus = pair[1]
            elif turn := _follow(rng, scene, focus, held):
                said.append(turn)
        elif pick < 0.85 and not scene.lettering and (found := _one(rng, scene)):
            if turn := _opening(rng, scene, *found, held):
                said.append(turn)
                focus = found[0]
        elif pick < 0.93:
            said.append(ask(rng, scene, held))
            focus = None
        elif said:
            said.append(small_talk(rng, held, picture=True) if rng.random() < 0.5 else unknown(rng, held))
            focus = None
    return said or [ask(rng, scene, held)]
