"""Takes calls of tools out of an answer's text while it comes.

A parser is a pure function of the text: however it is cut into pushes, the joined events are the same. So a job that
another worker takes over needs nothing more: its text goes on, and the parser with it. What only looks like the start
of a call is withheld until it is decided. A call that cannot be read, or of a tool that is not offered, is content.
"""

from collections.abc import Sequence
from typing import Protocol

from schemas.jobs import ChatJob, Job, Tool, ToolChoice
from schemas.tool_forms import FORMS
from server.tools.events import ContentDelta, ToolEvent
from server.tools.json_lines import JsonLinesParser
from server.tools.tagged import TaggedParser


class ToolParser(Protocol):
    """The parser of one choice."""

    def push(self, text: str) -> list[ToolEvent]:
        """What more text decides."""
        ...

    def finish(self) -> list[ToolEvent]:
        """What was withheld, now that no text follows. Nothing may be pushed afterwards."""
        ...


class PlainText:
    """The parser of an answer that makes no calls."""

    def push(self, text: str) -> list[ToolEvent]:
        """The text."""
        return [ContentDelta(text)] if text else []

    def finish(self) -> list[ToolEvent]:
        """Nothing."""
        return []


def open_parser(form_name: str | None, tools: Sequence[Tool], choice: ToolChoice) -> ToolParser:
    """The parser for one choice of an answer.

    form_name: as the worker tells it (`Accepted.tool_form`); with None, or a name from a later release, all text is
    content.
    """
    form = FORMS.get(form_name or "")
    if form is None:
        return PlainText()
    names = frozenset(choice.names or (tool.name for tool in tools))
    if form.opening:
        return TaggedParser(form, names, choice.is_parallel)
    return JsonLinesParser(names, choice.is_parallel)


def open_parsers(form_name: str | None, job: Job) -> list[ToolParser]:
    """A parser for each choice of a job."""
    if not isinstance(job, ChatJob):
        return [PlainText() for _ in range(job.n)]
    return [open_parser(form_name, job.tools, job.tool_choice) for _ in range(job.n)]
