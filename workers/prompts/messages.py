"""A conversation as the prompt builders read it: plain records, media by their place in the request's media list."""

from dataclasses import dataclass

from schemas.jobs import ToolCall

TOOLS_ROLE = "tools"
"""Of a message behind the leading system messages that tells of the tools and belongs to them."""
PLUGIN_ROLE = "plugin"
"""The same as a turn of its own, in InternLM2's form."""
ENVIRONMENT_ROLE = "environment"
"""Of what tools gave back, in InternLM2's form."""


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


@dataclass(frozen=True, slots=True)
class Control:
    """What the form of a prompt has in this place, control tokens by their names."""

    text: str


Part = Text | Control | Image | Video


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn. Roles: system and developer set the rules; assistant answers; any other speaks as the user, but for
    those above.

    calls, call_id: see `schemas.jobs.Message`; `workers.tools.conversation` writes them into the parts.
    """

    role: str
    parts: tuple[Part, ...]
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
