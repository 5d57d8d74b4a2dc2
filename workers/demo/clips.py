"""Short clips: one shape that moves, changes colour or stays, over a few frames."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from . import facts
from .facts import article, capital
from .pairs import MOVES
from .phrasing import phrase
from .pointing import Seen, seen
from .scenes import (
    COLOURS,
    Background,
    Scene,
    Shape,
    overlaps,
    sample_aspect,
    sample_background,
    sample_finish,
    sample_shapes,
    visible_rgb,
)
from .turn import Turn

FRAMES = (2, 2, 3, 3, 4, 4, 5, 6, 8)


@dataclass(frozen=True)
class Clip:
    """``way`` is a key of MOVES or None; ``colours`` differ when the actor changes colour."""

    frames: tuple[Scene, ...]
    actor: Shape
    way: str | None
    colours: tuple[str, str]
    others: int


def sample_clip(rng: random.Random, frames: int | None = None) -> Clip:
    """Mostly motion; the clip keeps its background and, at times, one still shape beside the actor."""
    count = frames or rng.choice(FRAMES)
    background, finish, aspect = sample_background(rng), sample_finish(rng), sample_aspect(rng)
    shapes: tuple[Shape, ...] = ()
    while not shapes:
        shapes = sample_shapes(rng, 2 if rng.random() < 0.3 else 1, background, aspect)
    actor = replace(shapes[0], rx=min(shapes[0].rx, 0.2), ry=min(shapes[0].ry, 0.2))
    still = shapes[1:]
    pick = rng.random()
    way = None if pick > 0.72 else rng.choice(tuple(MOVES))
    if way:
        actor, track = _track(rng, actor, way, count)
        still = tuple(s for s in still if s.name != actor.name and not any(overlaps(s, step) for step in track))
    else:
        track = [actor] * count
    colours = (actor.colour, actor.colour)
    if 0.72 < pick < 0.9 and (new := _recolour(rng, actor, background)):
        switch = rng.randint(1, count - 1)
        track = track[:switch] + [replace(actor, colour=new[0], rgb=new[1])] * (count - switch)
        colours = (actor.colour, new[0])
    scenes = [Scene((step, *still), None, background, finish, aspect, rng.getrandbits(40)) for step in track]
    return Clip(tuple(scenes), actor, way, colours, len(still))


def _track(rng: random.Random, actor: Shape, way: str, count: int) -> tuple[Shape, list[Shape]]:
    """Equal steps along one axis, all inside the picture, a quarter of it at least in all."""
    dx, dy = MOVES[way]
    low, high = (actor.rx, 1 - actor.rx) if dx else (actor.ry, 1 - actor.ry)
    far = rng.uniform(min(0.25, high - low), high - low)
    start = rng.uniform(low, high - far)
    ends = (start, start + far) if dx + dy > 0 else (start + far, start)
    drift = rng.uniform(-0.03, 0.03) if rng.random() < 0.3 else 0.0
    steps = []
    for i in range(count):
        t = i / (count - 1)
        along = ends[0] + (ends[1] - ends[0]) * t
        steps.append(
            replace(actor, x=along, y=actor.y + drift * t) if dx else replace(actor, x=actor.x + drift * t, y=along)
        )
    return steps[0], steps


def _recolour(rng: random.Random, actor: Shape, background: Background) -> tuple[str, tuple[int, int, int]] | None:
    colour = rng.choice([c for c in COLOURS if c != actor.colour])
    rgb = visible_rgb(rng, colour, background)
    return (colour, rgb) if rgb else None


def ask_clip(rng: random.Random, clip: Clip, held: bool = False) -> Turn:
    """A fair question about a clip; its answer compares the actor in the first frame with the last."""
    last = Seen(clip.frames[-1].shapes[0], len(clip.frames) - 1)
    return _ask(rng, clip, held)._replace(about=seen(clip.frames[0].shapes[0]), other=last)


def _ask(rng: random.Random, clip: Clip, held: bool) -> Turn:
    actor, way, (old, new) = clip.actor, clip.way, clip.colours
    changes = old != new
    kinds = {s.kind for s in clip.frames[0].shapes}
    thing = actor.kind if len(kinds) > clip.others and rng.random() < 0.6 else actor.name
    if len(kinds) == clip.others or changes:
        thing = actor.kind if len(kinds) > clip.others else "shape"
    if clip.others == 0 and rng.random() < 0.25:
        thing = rng.choice(("shape", "object"))
    said = actor.kind if thing in ("shape", "object") else thing
    motion = f"moves {way}" if way else "does not move"
    while True:
        sort = rng.choices(
            ("way", "happens", "moves", "to", "what", "change", "ends", "still"), (6, 3, 1, 1, 1, 2, 1, 1)
        )[0]
        if sort == "way":
            if rng.random() < 0.3:
                return Turn("direction", phrase(rng, "direction it", held), f"The {actor.kind} {motion}.")
            return Turn("direction", phrase(rng, "direction", held, thing=thing), f"The {said} {motion}.")
        if sort == "happens":
            return Turn("clip", phrase(rng, "happens", held), _story(clip))
        if sort == "moves":
            question = phrase(rng, "does it move", held, thing=thing)
            answer = f"Yes, the {_called(said, actor, question)} moves {way}." if way else "No, nothing moves."
            return Turn("direction", question, answer)
        if sort == "to" and way:
            asked = way if rng.random() < 0.5 else rng.choice(tuple(MOVES))
            typed = rng.choice((asked, asked.removeprefix("to the ")))
            question = phrase(rng, "moves to", held, thing=thing, way=typed)
            verdict = "Yes" if asked == way else "No"
            return Turn("direction", question, f"{verdict}, the {_called(said, actor, question)} moves {way}.")
        if sort == "what" and not changes:
            answer = f"{capital(article(actor.name))} moves." if way else "Nothing moves."
            return Turn("clip", phrase(rng, "what moves", held), answer)
        if sort == "change":
            answer = f"Yes, it changes from {old} to {new}." if changes else "No, the colour stays the same."
            return Turn("clip", phrase(rng, "colour change", held, thing=said), answer)
        if sort == "ends" and not clip.others:
            key, colour = rng.choice((("colour start", old), ("colour end", new)))
            return Turn("clip", phrase(rng, key, held, thing=actor.kind), f"It is {colour}.")
        if sort == "still" and not clip.others:
            return _still(rng, clip, held)


def _called(name: str, actor: Shape, question: str) -> str:
    """The name that the question used; a question that used none is answered with the kind alone."""
    return name if name in question.lower() else actor.kind


def _still(rng: random.Random, clip: Clip, held: bool) -> Turn:
    """What a single frame would tell as well."""
    pick = rng.random()
    if pick < 0.4:
        return Turn("clip", phrase(rng, "clip shape", held), f"It is {article(clip.actor.kind)}.")
    if pick < 0.75 and clip.colours[0] == clip.colours[1]:
        answer = f"The {clip.actor.kind} is {clip.colours[0]}."
        return Turn("clip", phrase(rng, "clip colour", held, thing=clip.actor.kind), answer)
    return Turn("clip", phrase(rng, "clip count", held), capital(facts.there_are(1, "shape")) + ".")


def _story(clip: Clip) -> str:
    actor, (old, new) = clip.actor, clip.colours
    if clip.way:
        return f"{capital(article(actor.name))} moves {clip.way}."
    if old != new:
        return f"{capital(article(actor.kind))} changes from {old} to {new}."
    return f"Nothing moves: there is {article(actor.name)}."
