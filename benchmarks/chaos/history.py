"""What one client saw of its request, and whether that is what an undisturbed run gives. No sockets, no clock.

A history is told the lines of an event stream as they come in. `check` compares it with the answer that is known to be
right: exactly one last event and nothing behind it, each token once and in order, the text that belongs to the tokens,
one finish reason for each choice, and usage that counts what was sent.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

DONE = "[DONE]"


class Kind(StrEnum):
    """What can be wrong."""

    LOST = "lost"
    REPEATED = "repeated"
    WRONG = "wrong"
    FAILED = "failed"
    UNENDED = "no last event"
    ENDED_TWICE = "more than one last event"
    WRONG_COUNT = "usage"
    LEAK = "leak"


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong, and where."""

    kind: Kind
    what: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice of an answer."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str = "length"


@dataclass(frozen=True, slots=True)
class Answer:
    """What an undisturbed run gives."""

    prompt_tokens: int
    choices: tuple[Choice, ...]

    @property
    def completion_tokens(self) -> int:
        return sum(len(choice.token_ids) for choice in self.choices)


@dataclass(slots=True)
class ChoiceSeen:
    """What came of one choice."""

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reasons: list[str] = field(default_factory=list)


@dataclass(slots=True)
class History:
    """One client's view of its request.

    stamps: when chunks with tokens came, in seconds, the sending first. has_left: the client did not wait for the end.
    has_begun: it was not refused. is_over: nothing will come any more, whether it ended as it should or not.
    """

    choices: dict[int, ChoiceSeen] = field(default_factory=dict)
    ends: list[str] = field(default_factory=list)
    usage: dict[str, Any] | None = None
    has_begun: bool = False
    has_left: bool = False
    is_over: bool = False
    num_behind_the_end: int = 0
    stamps: list[float] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """Tokens of all choices so far."""
        return sum(len(choice.token_ids) for choice in self.choices.values())

    @property
    def longest_gap_s(self) -> float:
        """The longest time without a new token, from the sending on."""
        return max((later - sooner for sooner, later in zip(self.stamps, self.stamps[1:], strict=False)), default=0.0)

    def take(self, line: str, now_s: float) -> None:
        """One line of the event stream."""
        if not line.startswith("data: "):
            return
        self.num_behind_the_end += bool(self.ends)
        data = line.removeprefix("data: ")
        if data == DONE:
            self.ends.append(DONE)
            return
        chunk = json.loads(data)
        if "error" in chunk:
            self.refused(chunk["error"])
            return
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk["choices"]:
            self._take_choice(choice, now_s)

    def refused(self, error: dict[str, Any]) -> None:
        """The request ends with an error."""
        self.ends.append(f"{error.get('code')}: {error.get('message')}")

    def _take_choice(self, choice: dict[str, Any], now_s: float) -> None:
        seen = self.choices.setdefault(choice["index"], ChoiceSeen())
        seen.text += choice["delta"].get("content") or ""
        if token_ids := choice.get("token_ids"):
            seen.token_ids += token_ids
            self.stamps.append(now_s)
        if choice.get("finish_reason"):
            seen.finish_reasons.append(choice["finish_reason"])

    def answer(self) -> Answer:
        """This history as what others are to be compared with. Raises ValueError unless it ended as it should."""
        usage = self.usage
        if self.ends != [DONE] or usage is None:
            raise ValueError(f"the undisturbed run failed: {self.ends}, usage {usage}")
        choices = [self.choices[index] for index in sorted(self.choices)]
        return Answer(
            usage["prompt_tokens"],
            tuple(Choice(tuple(one.token_ids), one.text, one.finish_reasons[0]) for one in choices),
        )


def check(history: History, right: Answer) -> list[Violation]:
    """All that is wrong with a history; of each choice's tokens and text the first thing."""
    return [*_check_end(history), *_check_choices(history, right), *_check_counts(history, right)]


def _check_end(history: History) -> Iterator[Violation]:
    failures = [end for end in history.ends if end != DONE]
    if failures:
        yield Violation(Kind.FAILED, f"ended with {failures[0]}")
    if len(history.ends) > 1 or history.num_behind_the_end:
        yield Violation(Kind.ENDED_TWICE, f"ended with {history.ends}, {history.num_behind_the_end} events behind it")
    if not history.ends and not history.has_left:
        yield Violation(Kind.UNENDED, f"the stream broke off behind {history.num_tokens} tokens")


def _check_choices(history: History, right: Answer) -> Iterator[Violation]:
    is_whole = history.ends == [DONE]
    if strangers := history.choices.keys() - range(len(right.choices)):
        yield Violation(Kind.WRONG, f"choices {sorted(strangers)} were not asked for")
    for index, expected in enumerate(right.choices):
        seen = history.choices.get(index, ChoiceSeen())
        if violation := _compare(expected.token_ids, seen.token_ids, is_whole):
            yield Violation(violation.kind, f"choice {index}: token {violation.what}")
        elif violation := _compare(expected.text, seen.text, is_whole):
            yield Violation(violation.kind, f"choice {index}: character {violation.what}")
        if is_whole and seen.finish_reasons != [expected.finish_reason]:
            yield Violation(Kind.WRONG, f"choice {index}: finish reasons {seen.finish_reasons}")


def _check_counts(history: History, right: Answer) -> Iterator[Violation]:
    if history.ends != [DONE]:
        return
    usage = history.usage or {}
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"), usage.get("total_tokens"))
    expected = (right.prompt_tokens, right.completion_tokens, right.prompt_tokens + right.completion_tokens)
    if counts != expected:
        yield Violation(Kind.WRONG_COUNT, f"counts {counts} and not {expected}")


def _compare(expected: Sequence[Any], seen: Sequence[Any], is_whole: bool) -> Violation | None:
    """The first difference; what is not whole may end early. What comes behind it tells which kind it is."""
    at = next((at for at, pair in enumerate(zip(expected, seen, strict=False)) if pair[0] != pair[1]), None)
    if at is None:
        at = min(len(expected), len(seen))
        if len(seen) > len(expected):
            is_repeat = _goes_on_at(expected, seen[at:], range(at - 1, -1, -1)) is not None
            return Violation(Kind.REPEATED if is_repeat else Kind.WRONG, f"{at}: {len(seen) - at} too many")
        is_short = is_whole and len(seen) < len(expected)
        return Violation(Kind.LOST, f"{at}: {len(expected) - at} are missing at the end") if is_short else None
    if (later := _goes_on_at(expected, seen[at:], range(at + 1, len(expected)))) is not None:
        return Violation(Kind.LOST, f"{at}: {later - at} are missing")
    if (sooner := _goes_on_at(expected, seen[at:], range(at - 1, -1, -1))) is not None:
        return Violation(Kind.REPEATED, f"{at}: the {at - sooner} before come again")
    return Violation(Kind.WRONG, f"{at}: {seen[at]!r} and not {expected[at]!r}")


def _goes_on_at(expected: Sequence[Any], rest: Sequence[Any], places: range) -> int | None:
    """The first of these places in the right answer at which it goes on as the rest does, as far as both reach."""
    for place in places:
        length = min(len(rest), len(expected) - place)
        if list(expected[place : place + length]) == list(rest[:length]):
            return place
    return None
