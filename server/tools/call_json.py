"""The JSON object of one call, read while it comes: its head up to the arguments, then where these end."""

import json
import re
from typing import Any, NamedTuple

import msgspec

from server.tools.events import SPACE

MAX_HEAD_CHARS = 512
"""A head is a name with a few quotes and spaces around it; what is longer is none."""

_NAME = re.compile(r"[A-Za-z0-9_-]{0,64}")
_STRUCTURE = re.compile(r'["{}\[\]]')
_IN_STRING = re.compile(r'["\\]')


class Unfinished(Exception):
    """The text may become the head of a call, or not."""


class NoCall(Exception):
    """Whatever follows, the text is not the head of a call."""


class Head(NamedTuple):
    """The tool's name, and where the arguments' opening brace is."""

    name: str
    arguments_start: int


class Call(NamedTuple):
    """A whole call; `arguments` is a JSON object as text."""

    name: str
    arguments: str


def read_head(text: str, lead: str = "") -> Head:
    """The head at the beginning of the text: `lead`, `{"name": "...", "arguments": {`.

    Raises Unfinished or NoCall. What it says of a text holds for the text with anything behind it, but for Unfinished.
    """
    try:
        return _read_head(text[:MAX_HEAD_CHARS], lead)
    except Unfinished:
        if len(text) >= MAX_HEAD_CHARS:
            raise NoCall from None
        raise


def _read_head(text: str, lead: str) -> Head:
    at = _skip_space(text, 0)
    if lead:
        at = _skip_space(text, _skip(text, at, lead))
    for mark in ("{", '"name"', ":"):
        at = _skip_space(text, _skip(text, at, mark))
    at = _skip(text, at, '"')
    name = _NAME.match(text, at)
    assert name is not None, "it matches the empty string"
    at = _skip_space(text, _skip(text, name.end(), '"'))
    at = _skip_space(text, _skip(text, at, ","))
    at = _skip_space(text, _skip(text, at, '"arguments"', '"parameters"'))
    at = _skip_space(text, _skip(text, at, ":"))
    _skip(text, at, "{")
    return Head(name[0], at)


def _skip(text: str, at: int, *marks: str) -> int:
    for mark in marks:
        if text.startswith(mark, at):
            return at + len(mark)
    if any(mark.startswith(text[at:]) for mark in marks):
        raise Unfinished
    raise NoCall


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in SPACE:
        at += 1
    return at


class ObjectEnd:
    """Finds the end of a JSON object whose text comes in pieces. Looks at brackets and strings only."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_in_string = False
        self._is_escaped = False

    def find(self, piece: str) -> int | None:
        """The place behind the object's last bracket; None while it goes on."""
        at = 0
        while at < len(piece):
            if self._is_escaped:
                self._is_escaped = False
                at += 1
                continue
            match = (_IN_STRING if self._is_in_string else _STRUCTURE).search(piece, at)
            if match is None:
                return None
            at = match.end()
            self._take(match[0])
            if self._depth == 0 and not self._is_in_string:
                return at
        return None

    def _take(self, character: str) -> None:
        match character:
            case '"':
                self._is_in_string = not self._is_in_string
            case "\\":
                self._is_escaped = True
            case "{" | "[":
                self._depth += 1
            case _:
                self._depth -= 1


def read_call(text: str, lead: str = "") -> Call | None:
    """A whole call with its members in any order; None where the text is not one."""
    try:
        value: Any = msgspec.json.decode(text.strip(SPACE).removeprefix(lead))
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        arguments = _decode_object(arguments)
    elif arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        return None
    return Call(value["name"], json.dumps(arguments, ensure_ascii=False))


def _decode_object(text: str) -> Any:
    """Some models write their arguments as a string that holds an object."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        return None
