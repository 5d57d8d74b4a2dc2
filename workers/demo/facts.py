"""What is true of a scene, in words: names, places, relations, descriptions.

Anything on the border between two answers (a centre on the line between "left" and
"centre", an object neither clearly left of another nor clearly not) is reported as None,
and no question about it is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .scenes import COLOURS, KINDS, Scene, Shape

BORDER = 0.025
APART = 0.14
LEVEL = 0.07
SIDES = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
AREAS = {
    "left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom",
    "centre": "in the centre", "top left": "at the top left", "top right": "at the top right",
    "bottom left": "at the bottom left", "bottom right": "at the bottom right",
}  # fmt: skip
_COLUMNS = ("left", "", "right")
_ROWS = ("top", "", "bottom")


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def join(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def there_are(count: int, noun: str) -> str:
    """``there are 3 circles``, ``there is 1 circle``, ``there are no circles``."""
    return f"there {'is' if count == 1 else 'are'} {count or 'no'} {plural(noun, count)}"


def third(value: float) -> int | None:
    """0, 1 or 2, or None within the border between two thirds."""
    if min(abs(value - 1 / 3), abs(value - 2 / 3)) < BORDER:
        return None
    return min(2, max(0, int(value * 3)))


def area(shape: Shape) -> str | None:
    """The one of nine areas that holds the shape's centre."""
    column, row = third(shape.x), third(shape.y)
    if column is None or row is None:
        return None
    return f"{_ROWS[row]} {_COLUMNS[column]}".strip() or "centre"


def in_area(shape: Shape, name: str) -> bool | None:
    """Whether the shape is in that area; ``left`` alone means the whole left third, and so on."""
    column, row = third(shape.x), third(shape.y)
    wanted = {"left": (0, -1), "right": (2, -1), "top": (-1, 0), "bottom": (-1, 2), "centre": (1, 1)}.get(name)
    if wanted is None:
        vertical, horizontal = name.split()
        wanted = (_COLUMNS.index(horizontal), _ROWS.index(vertical))
    verdicts = [
        None if have is None else have == want for have, want in zip((column, row), wanted, strict=True) if want >= 0
    ]
    if False in verdicts:
        return False
    return None if None in verdicts else True


def stands(a: Shape, side: str, b: Shape) -> bool | None:
    """Whether ``a`` stands on that side of ``b``."""
    gap = {"left": b.x - a.x, "right": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}[side]
    if gap > APART:
        return True
    return False if gap < LEVEL else None


def beside(scene: Scene, side: str, anchor: Shape) -> list[Shape] | None:
    """All shapes on that side of the anchor; None when some are doubtful."""
    verdicts = [(s, stands(s, side, anchor)) for s in scene.shapes if s is not anchor]
    if any(v is None for _, v in verdicts):
        return None
    return ordered(s for s, v in verdicts if v)


def ordered(shapes: Iterable[Shape]) -> list[Shape]:
    """Reading order: by thirds from the top, then from the left."""
    return sorted(shapes, key=lambda s: (min(2, int(s.y * 3)), s.x))


def named(shapes: Iterable[Shape]) -> str:
    """``a red circle and a blue star``."""
    return join([article(s.name) for s in shapes])


def unique(scene: Scene) -> list[Shape]:
    """Shapes whose colour and kind together occur once, so that "the red circle" is clear."""
    names = [s.name for s in scene.shapes]
    return [s for s in scene.shapes if names.count(s.name) == 1]


def reference(scene: Scene, shape: Shape, short: bool) -> str:
    """``red circle``, or just ``circle`` when short and the only one of its kind."""
    alone = sum(s.kind == shape.kind for s in scene.shapes) == 1
    return shape.kind if short and alone else shape.name


def matching(scene: Scene, kind: str | None, colour: str | None) -> list[Shape]:
    return [s for s in scene.shapes if kind in (None, s.kind) and colour in (None, s.colour)]


def noun(kind: str | None, colour: str | None) -> str:
    """``red circle``, ``circle``, ``red shape`` or ``shape``."""
    return f"{colour or ''} {kind or 'shape'}".strip()


def colours_of(shapes: Iterable[Shape]) -> list[str]:
    have = {s.colour for s in shapes}
    return [c for c in COLOURS if c in have]


def kinds_of(shapes: Iterable[Shape]) -> list[str]:
    have = {s.kind for s in shapes}
    return [k for k in KINDS if k in have]


def contents(scene: Scene) -> str:
    """``a red circle, a blue star and the word "CAT"``, or ``no shapes``."""
    parts = [article(s.name) for s in ordered(scene.shapes)]
    if scene.lettering:
        label = "number" if scene.lettering.string.isdigit() else "word"
        parts.append(f'the {label} "{scene.lettering.string}"')
    return join(parts) if parts else "no shapes"


def description(scene: Scene) -> str:
    """One sentence: everything in the picture, and the background where it has one colour name."""
    ground = f" on {article(scene.background.colour + ' background')}" if scene.background.colour else ""
    where = ""
    if len(scene.shapes) == 1 and not scene.lettering and (name := area(scene.shapes[0])):
        where = " " + AREAS[name]
    return f"The picture shows {contents(scene)}{where}{ground}."
