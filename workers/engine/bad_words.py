"""Words that an answer must not contain, as tokens: the last token of one is forbidden where the answer so far ends
with those before it. Prompts do not count, as with penalties."""

from collections.abc import Iterable, Iterator, Sequence


class BadWords:
    """Forbidden sequences of token ids. Those of several tokens are found by the last one before the forbidden, so that
    a step costs what can apply, not what was asked for."""

    def __init__(self, sequences: Iterable[tuple[int, ...]]) -> None:
        """Raises ValueError for an empty sequence."""
        self._always: set[int] = set()
        self._behind: dict[int, list[tuple[tuple[int, ...], int]]] = {}
        for sequence in sequences:
            if not sequence:
                raise ValueError("a bad word needs a token")
            *head, last = sequence
            if head:
                self._behind.setdefault(head[-1], []).append((tuple(head), last))
            else:
                self._always.add(last)

    @property
    def last_ids(self) -> frozenset[int]:
        """All ids that may ever be forbidden."""
        return frozenset(self._always.union(last for found in self._behind.values() for _, last in found))

    def banned_ids(self, token_ids: Sequence[int], start: int) -> Iterator[int]:
        """What must not follow token_ids[start:], the answer so far; an id may come twice."""
        yield from self._always
        if len(token_ids) == start:
            return
        for head, last in self._behind.get(token_ids[-1], ()):
            first = len(token_ids) - len(head)
            if first >= start and tuple(token_ids[first:]) == head:
                yield last
