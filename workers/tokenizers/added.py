"""Added tokens: which texts are tokens of their own, and how a prompt is divided at them.

A prompt's text falls into added tokens and the segments between them; each segment is encoded alone. Only control
runs are searched for added tokens, so what a user writes stays text; but for the marks of regions and phrases, which
users write when they ask for grounding and which steer nothing. Knows nothing of how a segment is encoded.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

from workers.tokenizers.base import Run

MARKUP = frozenset({"<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"})
"""Added tokens that plain text may hold."""


@dataclass(frozen=True, slots=True)
class AddedToken:
    """One entry of a checkpoint's added-token table. lstrip, rstrip: it eats the white space on that side."""

    id: int
    text: str
    lstrip: bool = False
    rstrip: bool = False


@dataclass(frozen=True, slots=True)
class Segment:
    """Text between added tokens. `control` holds the ascending (start, end) stretches of it that are control text."""

    text: str
    control: tuple[tuple[int, int], ...] = ()


def alternatives(texts: Iterable[str]) -> re.Pattern[str] | None:
    """A pattern that finds the leftmost, longest of the given texts; None for no texts."""
    ordered = sorted({text for text in texts if text}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None


def without_surrogates(text: str) -> str:
    """The text with surrogate pairs joined and lone ones replaced by U+FFFD: no encoder takes them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class AddedTokens:
    """The table of added tokens by id and text, and the division of prompts at them."""

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        self.by_id = {token.id: token for token in tokens}
        self.by_text = {token.text: token for token in self.by_id.values()}
        self.control_ids = frozenset(token.id for token in self.by_id.values() if token.text not in MARKUP)
        self._pattern = alternatives(self.by_text)
        self._plain_pattern = alternatives(MARKUP & self.by_text.keys())

    def divide(self, runs: Sequence[Run]) -> Iterator[AddedToken | Segment]:
        """The added tokens and non-empty segments of the runs, in order; white space stripped as the tokens ask."""
        text, control = _join(runs)
        start, strip_left = 0, False
        for token, token_start, token_end in self._matches(text, control):
            yield from _segment(text, control, start, token_start, strip_left, token.lstrip)
            yield token
            start, strip_left = token_end, token.rstrip
        yield from _segment(text, control, start, len(text), strip_left, False)

    def _matches(self, text: str, control: list[tuple[int, int]]) -> Iterator[tuple[AddedToken, int, int]]:
        position = 0
        for start, end in (*control, (len(text), len(text))):
            for pattern, a, b in ((self._plain_pattern, position, start), (self._pattern, start, end)):
                for match in pattern.finditer(text, a, b) if pattern else ():
                    yield self.by_text[match[0]], match.start(), match.end()
            position = end


def cut_forged(segment: Segment, pattern: re.Pattern[str] | None) -> list[str]:
    """The segment's text, cut inside each match of `pattern` that is not wholly control text.

    For encoders whose vocabulary itself holds control tokens: no part encoded alone can yield one that the
    template did not write. Nearly always there is nothing to cut and one part comes back.
    """
    if pattern is None:
        return [segment.text]
    parts, start, position = [], 0, 0
    while match := pattern.search(segment.text, position):
        if lies_in(segment.control, match.start(), match.end()):
            position = match.end()
        else:
            position = match.start() + 1
            parts.append(segment.text[start:position])
            start = position
    parts.append(segment.text[start:])
    return parts


def lies_in(intervals: Sequence[tuple[int, int]], start: int, end: int) -> bool:
    """Whether [start, end) lies within one of the ascending intervals."""
    index = bisect_right(intervals, start, key=itemgetter(0)) - 1
    return index >= 0 and end <= intervals[index][1]


def _join(runs: Sequence[Run]) -> tuple[str, list[tuple[int, int]]]:
    text = "".join(run.text for run in runs)
    control: list[tuple[int, int]] = []
    start = 0
    for run in runs:
        end = start + len(run.text)
        if run.is_control and control and control[-1][1] == start:
            control[-1] = (control[-1][0], end)
        elif run.is_control:
            control.append((start, end))
        start = end
    return text, control


def _segment(
    text: str, control: list[tuple[int, int]], start: int, end: int, strip_left: bool, strip_right: bool
) -> Iterator[Segment]:
    piece = text[start:end]
    if strip_left:
        piece = piece.lstrip()
        start = end - len(piece)
    if strip_right:
        piece = piece.rstrip()
        end = start + len(piece)
    if piece:
        first = bisect_right(control, start, key=itemgetter(1))
        last = bisect_left(control, end, key=itemgetter(0))
        yield Segment(piece, tuple((max(a, start) - start, min(b, end) - start) for a, b in control[first:last]))
