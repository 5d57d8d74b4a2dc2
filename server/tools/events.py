"""What an answer's text falls into: content, and calls of tools with their arguments piece by piece.

Structs, as one is made for every few tokens: a frozen dataclass takes ten times as long.
"""

import msgspec

SPACE = " \t\r\n"


class ContentDelta(msgspec.Struct, frozen=True):
    """More of what is said to the client's user."""

    text: str


class CallStart(msgspec.Struct, frozen=True):
    """A call begins: number `index` of the answer, counted from 0. Its arguments follow."""

    index: int
    name: str


class ArgumentsDelta(msgspec.Struct, frozen=True):
    """More of the arguments of call `index`, as the model writes them: JSON, once all pieces are joined."""

    index: int
    text: str


ToolEvent = ContentDelta | CallStart | ArgumentsDelta


class EventList:
    """Collects the events of one answer, in the order of its text. White space next to a call belongs to nothing.

    is_parallel: False keeps the first call and drops the others.
    """

    def __init__(self, is_parallel: bool) -> None:
        self._is_parallel = is_parallel
        self._num_calls = 0
        self._drops_call = False
        self._has_content = False
        self._held_space = ""
        self._events: list[ToolEvent] = []

    def content(self, text: str) -> None:
        """Add text; white space at its end waits for what follows."""
        text = self._held_space + text
        kept = text.rstrip(SPACE)
        self._held_space = text[len(kept) :]
        if self._num_calls and not self._has_content:
            kept = kept.lstrip(SPACE)
        if kept:
            self._has_content = True
            self._events.append(ContentDelta(kept))

    def begin_call(self, name: str) -> None:
        """A call of the tool begins."""
        self._drops_call = bool(self._num_calls) and not self._is_parallel
        if not self._drops_call:
            self._events.append(CallStart(self._num_calls, name))
            self._num_calls += 1

    def arguments(self, text: str) -> None:
        """Add to the arguments of the call that was begun last."""
        if text and not self._drops_call:
            self._events.append(ArgumentsDelta(self._num_calls - 1, text))

    def end(self) -> None:
        """No text follows: white space at the end of an answer without calls is content after all."""
        if self._held_space and not self._num_calls:
            self._events.append(ContentDelta(self._held_space))
        self._held_space = ""

    def take(self) -> list[ToolEvent]:
        """What has come since the last time."""
        events, self._events = self._events, []
        return events
