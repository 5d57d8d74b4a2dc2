"""Calls without tags, for models that have no form of their own: a JSON object where a line begins."""

from collections.abc import Callable, Set

from server.tools.call_json import NoCall, ObjectEnd, Unfinished, read_head
from server.tools.events import SPACE, EventList, ToolEvent


class JsonLinesParser:
    """The parser of one choice; see `ToolParser`. Only a head of the usual shape with the name of a tool is a call."""

    def __init__(self, names: Set[str], is_parallel: bool) -> None:
        self._names = names
        self._events = EventList(is_parallel)
        self._rest = ""
        self._arguments = ObjectEnd()
        self._step: Callable[[], bool] = self._at_line_start

    def push(self, text: str) -> list[ToolEvent]:
        """What more text decides."""
        self._rest += text
        while self._step():
            pass
        return self._events.take()

    def finish(self) -> list[ToolEvent]:
        """What was withheld."""
        if self._step in (self._at_line_start, self._in_line):
            self._events.content(self._rest)
        self._events.end()
        return self._events.take()

    def _at_line_start(self) -> bool:
        """Where a call may begin. This and the other steps return whether there is more to do with the text at hand."""
        try:
            head = read_head(self._rest)
        except Unfinished:
            return False
        except NoCall:
            head = None
        if head is None or head.name not in self._names:
            self._step = self._in_line
            return True
        self._events.content(self._rest[: len(self._rest) - len(self._rest.lstrip(SPACE))])
        self._events.begin_call(head.name)
        self._arguments = ObjectEnd()
        self._rest = self._rest[head.arguments_start :]
        self._step = self._in_arguments
        return True

    def _in_line(self) -> bool:
        end = self._rest.find("\n") + 1
        self._events.content(self._rest[:end] if end else self._rest)
        self._rest = self._rest[end:] if end else ""
        if end:
            self._step = self._at_line_start
        return bool(end)

    def _in_arguments(self) -> bool:
        end = self._arguments.find(self._rest)
        self._events.arguments(self._rest[:end])
        self._rest = "" if end is None else self._rest[end:]
        if end is not None:
            self._step = self._behind_arguments
        return end is not None

    def _behind_arguments(self) -> bool:
        """Before the brace that closes the call; members behind the arguments are content."""
        self._rest = self._rest.lstrip(SPACE)
        if not self._rest:
            return False
        is_closed = self._rest[0] == "}"
        self._rest = self._rest[is_closed:]
        self._step = self._at_line_start if is_closed else self._in_line
        return True
