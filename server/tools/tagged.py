"""Calls between tags: Hermes' `<tool_call>` pair, and the one of InternLM2 with its `<|plugin|>` behind the first."""

from collections.abc import Callable, Set

from schemas.tool_forms import ToolForm
from server.tools.call_json import NoCall, ObjectEnd, Unfinished, read_call, read_head
from server.tools.events import SPACE, EventList, ToolEvent


class TaggedParser:
    """The parser of one choice; see `ToolParser`.

    Arguments are passed on as they come once a call's head is read; so what turns out to be broken behind that stays in
    the arguments. A call with another order of members is read as a whole at its closing tag.
    """

    def __init__(self, form: ToolForm, names: Set[str], is_parallel: bool) -> None:
        self._form = form
        self._names = names
        self._events = EventList(is_parallel)
        self._rest = ""
        self._searched = 0
        self._arguments = ObjectEnd()
        self._step: Callable[[], bool] = self._in_content

    def push(self, text: str) -> list[ToolEvent]:
        """What more text decides."""
        self._rest += text
        self._run()
        return self._events.take()

    def finish(self) -> list[ToolEvent]:
        """What was withheld."""
        while self._step in (self._in_head, self._in_body):
            self._decide(self._rest, end=len(self._rest))
            self._run()
        if self._step == self._in_content:
            self._events.content(self._rest)
        self._events.end()
        return self._events.take()

    def _run(self) -> None:
        while self._step():
            pass

    def _in_content(self) -> bool:
        """Outside of calls. This and the other steps return whether there is more to do with the text at hand."""
        at = self._rest.find(self._form.opening)
        if at >= 0:
            self._events.content(self._rest[:at])
            self._go_on(self._in_head, at + len(self._form.opening))
            return True
        kept = len(self._rest) - _overlap(self._rest, self._form.opening)
        self._events.content(self._rest[:kept])
        self._rest = self._rest[kept:]
        return False

    def _in_head(self) -> bool:
        """Behind an opening tag."""
        try:
            head = read_head(self._rest, self._form.lead)
        except Unfinished:
            return False
        except NoCall:
            head = None
        if head is None or head.name not in self._names:
            self._step, self._searched = self._in_body, 0
            return True
        self._events.begin_call(head.name)
        self._arguments = ObjectEnd()
        self._go_on(self._in_arguments, head.arguments_start)
        return True

    def _in_body(self) -> bool:
        """In what may be a call of another shape, or none."""
        at = self._rest.find(self._form.closing, self._searched)
        if at < 0:
            self._searched = max(0, len(self._rest) - len(self._form.closing) + 1)
            return False
        self._decide(self._rest[:at], at + len(self._form.closing))
        return True

    def _decide(self, body: str, end: int) -> None:
        """A call, which ends at `end`; or the opening tag is content, and what follows it is looked at anew."""
        call = read_call(body, self._form.lead)
        if call is None or call.name not in self._names:
            self._events.content(self._form.opening)
            end = 0
        else:
            self._events.begin_call(call.name)
            self._events.arguments(call.arguments)
        self._go_on(self._in_content, end)

    def _in_arguments(self) -> bool:
        end = self._arguments.find(self._rest)
        self._events.arguments(self._rest[:end])
        self._rest = "" if end is None else self._rest[end:]
        if end is not None:
            self._step = self._behind_arguments
        return end is not None

    def _behind_arguments(self) -> bool:
        """Before the brace that closes the call."""
        self._rest = self._rest.lstrip(SPACE)
        if not self._rest:
            return False
        if self._rest[0] == "}":
            self._go_on(self._behind_call, 1)
        else:
            self._step = self._in_surplus
        return True

    def _behind_call(self) -> bool:
        """Before the closing tag, which some models leave out."""
        rest, closing = self._rest.lstrip(SPACE), self._form.closing
        if rest.startswith(closing):
            self._rest = rest
            self._go_on(self._in_content, len(closing))
            return True
        if closing.startswith(rest):
            return False
        self._step = self._in_content
        return True

    def _in_surplus(self) -> bool:
        """Members behind the arguments, which mean nothing."""
        at = self._rest.find(self._form.closing)
        if at >= 0:
            self._go_on(self._in_content, at + len(self._form.closing))
            return True
        self._rest = self._rest[len(self._rest) - _overlap(self._rest, self._form.closing) :]
        return False

    def _go_on(self, step: Callable[[], bool], start: int) -> None:
        self._step = step
        self._rest = self._rest[start:]


def _overlap(text: str, mark: str) -> int:
    """The length of the longest end of the text that begins the mark, short of the whole mark."""
    for size in range(min(len(text), len(mark) - 1), 0, -1):
        if mark.startswith(text[-size:]):
            return size
    return 0
