"""A conversation as the prompt builders read it: plain records, media by their place in the request's media list."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """What somebody wrote. Never searched for control tokens or media marks."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture: number `index` of the request's media."""

    index: int


@dataclass(frozen=True, slots=True)
class Video:
    """A clip: number `index` of the request's media."""

    index: int


Part = Text | Image | Video


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn. Roles: system and developer set the rules; assistant answers; any other speaks as the user."""

    role: str
    parts: tuple[Part, ...]
