"""Questions for training alone, whose answers hold many facts in the very words of the short answers.

A short question costs thirty tokens and teaches one look at the picture. A survey teaches
five to ten for little more, and since each of its sentences is a short answer, what it
teaches carries over.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from . import facts
from .clips import Clip
from .facts import AREAS, article, capital
from .phrasing import typed
from .pointing import Focus, Seen, seen
from .questions import _sorts
from .scenes import Scene, Shape
from .turn import Turn


def _near_area(shape: Shape) -> str:
    """The area of the centre, borders included: over many pictures the doubtful ones cancel out."""
    column, row = (min(2, max(0, int(v * 3))) for v in (shape.x, shape.y))
    name = f"{('top', '', 'bottom')[row]} {('left', '', 'right')[column]}".strip() or "centre"
    return AREAS[name]


def _each(shapes: Sequence[Sequence[Shape]]) -> Focus:
    """The focus of an answer of one sentence for each."""
    return tuple(seen(*some)[0] for some in shapes)


def _places(rng: random.Random, scene: Scene) -> Turn:
    shapes = rng.sample(scene.shapes, len(scene.shapes))
    if rng.random() < 0.5:
        names = [(f"the {s.name}", s) for s in shapes if s in facts.unique(scene)]
        names += [(f"the {s.kind}", s) for s in shapes if len(facts.matching(scene, s.kind, None)) == 1]
        names = rng.sample(names, min(5, len(names)))
    else:
        names = [(article(s.name), s) for s in facts.ordered(shapes)]
    answer = " ".join(f"{capital(name)} is {_near_area(s)}." for name, s in names)
    question = rng.choice(("Where is everything?", "Where are they?", "Where is each shape?"))
    return Turn("survey", question, answer, _each([[s] for _, s in names]))


def _colours(rng: random.Random, scene: Scene) -> Turn:
    parts, about = [], []
    for kind in rng.sample(facts.kinds_of(scene.shapes), len(facts.kinds_of(scene.shapes))):
        shapes = facts.matching(scene, kind, None)
        colours = facts.join(facts.colours_of(shapes))
        parts.append(f"The {kind} is {colours}." if len(shapes) == 1 else f"The {kind}s are {colours}.")
        about.append(shapes if len(shapes) == 1 else [])
    question = rng.choice(("What colour is everything?", "What colour is each shape?"))
    return Turn("survey", question, " ".join(parts), _each(about))


def _kinds(rng: random.Random, scene: Scene) -> Turn:
    parts, about = [], []
    for colour in rng.sample(facts.colours_of(scene.shapes), len(facts.colours_of(scene.shapes))):
        shapes = facts.ordered(facts.matching(scene, None, colour))
        names = facts.join([article(s.kind) for s in shapes])
        parts.append(f"The {colour} shape{' is' if len(shapes) == 1 else 's are'} {names}.")
        about.append(shapes)
    question = rng.choice(("What shape is each colour?", "What shape is everything?"))
    return Turn("survey", question, " ".join(parts), _each(about))


def _distinct_sorts(rng: random.Random, scene: Scene) -> list[tuple[str | None, str | None]]:
    return list(dict.fromkeys(_sorts(rng, scene, 0.6) for _ in range(5)))[:4]


def _counts(rng: random.Random, scene: Scene) -> Turn:
    sorts = [(None, None), *_distinct_sorts(rng, scene)]
    rng.shuffle(sorts)
    names = [facts.noun(kind, colour) for kind, colour in sorts]
    parts = [facts.there_are(len(facts.matching(scene, *sort)), name) for sort, name in zip(sorts, names, strict=True)]
    return Turn("survey", f"How many {facts.join([name + 's' for name in names])} are there?", _sentences(parts))


def _exists(rng: random.Random, scene: Scene) -> Turn:
    parts, names, about = [], [], []
    for kind, colour in _distinct_sorts(rng, scene):
        name = facts.noun(kind, colour)
        names.append(article(name))
        there = facts.matching(scene, kind, colour)
        about.append(there[:1])
        parts.append(f"yes, there is {article(name)}" if there else f"no, there is no {name}")
    return Turn("survey", f"Is there {facts.join(names)}?", _sentences(parts), _each(about))


def _sentences(parts: list[str]) -> str:
    return " ".join(capital(part) + "." for part in parts)


def survey(rng: random.Random, scene: Scene) -> Turn:
    """Many facts about one picture."""
    sorts = (_places, _places, _colours, _kinds, _counts, _counts, _exists) if scene.shapes else (_counts, _exists)
    turn = rng.choice(sorts)(rng, scene)
    return turn._replace(question=typed(rng, turn.question)) if turn.answer else _counts(rng, scene)


def survey_clip(rng: random.Random, clip: Clip) -> Turn:
    """Where the actor is, frame by frame; then the motion."""
    places = " ".join(f"It is {_near_area(frame.shapes[0])}." for frame in clip.frames)
    motion = f"moves {clip.way}" if clip.way else "does not move"
    question = rng.choice(("Where is it in each frame?", "Where is the shape in each frame?"))
    about = tuple((Seen(frame.shapes[0], i),) for i, frame in enumerate(clip.frames))
    answer = f"{places} The {clip.actor.kind} {motion}."
    return Turn("survey", typed(rng, question), answer, (*about, about[0]), about[-1][0])
