"""Long strings of a body are left where they are: a picture's megabytes need not become a string to be handed on.

They are found by their length alone, and something short stands for each while the rest is read as JSON. They count
only where a request has its media; where one of them turns up elsewhere, or nowhere, the body is read as it is.
"""

import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from schemas.data_url import DataUrl, LongText

WINDOW_BYTES = 32 * 1024
"""A string that fills one of these is long: of 64 KiB and more all are found, of half of that and less none."""
MAX_HEAD_BYTES = 1024

Place = tuple[dict[str, Any], str]
"""An object of the body, and the name of one of its fields."""
Places = Callable[[Any], Iterator[Place]]

_BEHIND_A_STRING = frozenset(b",:]} \t\r\n")
_IS_A_NAME = re.compile(rb"[ \t\r\n]*:")


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A body's JSON in which short names stand for the long strings."""

    data: bytes
    texts: dict[str, memoryview]


def without_long_strings(body: bytearray) -> Skeleton:
    """The body without its long strings. It is JSON if the body is, their own bytes apart, which are not looked at."""
    mark = secrets.token_hex(16)  # Nobody who writes a body can know what will stand for its strings.
    view = memoryview(body)
    texts: dict[str, memoryview] = {}
    pieces: list[bytes | memoryview] = []
    behind = 0
    for start, end in _long_spans(body):
        name = f"{mark}.{len(texts)}"
        texts[name] = view[start:end]
        pieces += (view[behind:start], name.encode())
        behind = end
    pieces.append(view[behind:])
    return Skeleton(b"".join(pieces), texts)


def put_back(value: Any, texts: dict[str, memoryview], places: Places) -> bool:
    """Put the long strings at the places where a request has its media. Whether all were put."""
    missing = dict(texts)
    for holder, name in places(value):
        found = holder.get(name)
        if isinstance(found, str) and (text := missing.pop(found, None)) is not None:
            size = _head_size(text) if name == "url" else 0
            if size is None:
                return False
            holder[name] = DataUrl(str(text[:size], "ascii"), LongText(text[size:]))
    return not missing


def chat_media(body: Any) -> Iterator[Place]:
    """Where a chat's body has its media: URLs."""
    for part in _parts(body):
        for kind in ("image_url", "video_url"):
            if part.get("type") == kind and isinstance(part.get(kind), dict):
                yield part[kind], "url"


def anthropic_media(body: Any) -> Iterator[Place]:
    """Where Anthropic's body has its media: base64 without a URL's head, in messages and in the results of tools."""
    for block in _parts(body):
        for one in (block, *_objects(block.get("content"))):
            if one.get("type") in ("image", "video") and isinstance(one.get("source"), dict):
                yield one["source"], "data"


def _parts(body: Any) -> Iterator[dict[str, Any]]:
    for message in _objects(body.get("messages") if isinstance(body, dict) else None):
        yield from _objects(message.get("content"))


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def _head_size(url: memoryview) -> int | None:
    """Of a data URL: what stands before its text; None: it is none, or of a kind that nobody serves."""
    head, comma, _ = bytes(url[:MAX_HEAD_BYTES]).partition(b",")
    return len(head) + 1 if comma and head.isascii() and head[:5].lower() == b"data:" else None


def _long_spans(body: bytearray) -> Iterator[tuple[int, int]]:
    """Where long strings lie, without their quotation marks."""
    at = behind = 0
    while at + WINDOW_BYTES <= len(body):
        if body.find(b'"', at, at + WINDOW_BYTES) >= 0:
            at += WINDOW_BYTES
            continue
        start = body.rfind(b'"', behind, at) + 1
        end = body.find(b'"', at + WINDOW_BYTES)
        if end < 0:
            return
        if start and _is_plain_text(body, start, end):
            yield start, end
        at, behind = end + 1, end


def _is_plain_text(body: bytearray, start: int, end: int) -> bool:
    """Whether what lies between two quotation marks is a value, without escapes: no name, nor what is between two
    strings, which begins otherwise wherever the body is JSON at all."""
    is_within = start >= 2 and body[start - 2] != ord("\\") and body[start] not in _BEHIND_A_STRING
    return is_within and body.find(b"\\", start, end) < 0 and _IS_A_NAME.match(body, end + 1) is None
