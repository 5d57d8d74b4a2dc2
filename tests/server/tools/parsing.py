"""Short ways to run a parser and to say what came of it."""

from collections.abc import Iterable, Sequence

from schemas.jobs import Tool, ToolChoice
from server.tools.events import ArgumentsDelta, CallStart, ContentDelta, ToolEvent
from server.tools.parser import open_parser

TOOLS = (Tool("look"), Tool("get_time"))


def run(form: str | None, pieces: Iterable[str], choice: ToolChoice | None = None) -> list[ToolEvent]:
    """All events of a text that comes in these pieces."""
    parser = open_parser(form, TOOLS, choice or ToolChoice())
    return [event for piece in pieces for event in parser.push(piece)] + parser.finish()


def joined(events: Sequence[ToolEvent]) -> list[str | tuple[str, str]]:
    """Content as text and calls as (name, arguments), in order. Fails on arguments of a call that is not open."""
    found: list[str | tuple[str, str]] = []
    num_calls = 0
    for event in events:
        match event:
            case ContentDelta(text):
                assert text
                if found and isinstance(found[-1], str):
                    text = str(found.pop()) + text
                found.append(text)
            case CallStart(index, name):
                assert index == num_calls
                num_calls += 1
                found.append((name, ""))
            case ArgumentsDelta(index, text):
                assert text and index == num_calls - 1
                name, before = found.pop()
                found.append((name, before + text))
    return found


def parse(form: str | None, text: str, choice: ToolChoice | None = None) -> list[str | tuple[str, str]]:
    """What a text comes to that is pushed at once."""
    return joined(run(form, [text], choice))
