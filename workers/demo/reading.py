"""Questions about the printed word in a picture."""

from __future__ import annotations

import random

from . import facts
from .facts import AREAS
from .lettering import sample_string
from .phrasing import phrase
from .scenes import Scene
from .turn import Turn


def ask_read(rng: random.Random, scene: Scene, held: bool) -> Turn:
    if not scene.lettering:
        key = rng.choice(("read", "read number", "any text"))
        return Turn(
            "read", phrase(rng, key, held), "No, there is no text." if key == "any text" else "There is no text."
        )
    said, pick = scene.lettering.string, rng.random()
    skill = "read" if scene.lettering.is_usual else "spell"
    if pick < 0.08:
        return Turn(skill, phrase(rng, "any text", held), f'Yes, it says "{said}".')
    if pick < 0.18:
        word = said if rng.random() < 0.5 else sample_string(rng)
        return Turn(
            skill, phrase(rng, "does it say", held, word=word), f'{"Yes" if word == said else "No"}, it says "{said}".'
        )
    key = "read number" if said.isdigit() and rng.random() < 0.5 else "read"
    return Turn(skill, phrase(rng, key, held), f'It says "{said}".')


def ask_text(rng: random.Random, scene: Scene, held: bool) -> Turn | None:
    text = scene.lettering
    if not text:
        return None
    column, row = facts.third(text.x), facts.third(text.y)
    if rng.random() < 0.6 or column is None or row is None:
        return Turn("text", phrase(rng, "text colour", held), f"The text is {text.colour}.")
    place = f"{('top', '', 'bottom')[row]} {('left', '', 'right')[column]}".strip() or "centre"
    return Turn("text", phrase(rng, "text where", held), f"The text is {AREAS[place]}.")
