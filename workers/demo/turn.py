"""One question and its true answer."""

from __future__ import annotations

from typing import NamedTuple

from .pointing import Focus, Seen


class Turn(NamedTuple):
    """``about`` and ``other`` say what the answer looks at: its subject, and what that is held against."""

    skill: str
    question: str
    answer: str
    about: Focus = ()
    other: Seen | None = None
