"""Stop strings over a growing text. Work per character does not grow with the text."""

from collections.abc import Sequence


class StopMatcher:
    """Passes text on until a stop string is complete, holding back only what could still become one.

    The stop string that is completed first ends the text; of several completed by the same character, the longest.
    So the result depends on the text alone, not on how it was cut into pushes.
    """

    def __init__(self, stops: Sequence[str], include_in_output: bool) -> None:
        """Raises ValueError for an empty stop string."""
        if "" in stops:
            raise ValueError("a stop string must not be empty")
        self._stops = sorted(set(stops), key=len, reverse=True)
        self._borders = [_borders(stop) for stop in self._stops]
        self._progress = [0] * len(self._stops)
        self._include_in_output = include_in_output
        self._held = ""
        self._matched: str | None = None

    def push(self, text: str) -> tuple[str, str | None]:
        """Add text; returns what may be shown of it by now, and the stop string once one is complete.

        After a match nothing is shown any more.
        """
        if self._matched is not None:
            return "", self._matched
        buffer = self._held + text
        for position, character in enumerate(text, len(self._held) + 1) if self._stops else ():
            stop = self._advance(character)
            if stop is not None:
                self._held, self._matched = "", stop
                return buffer[: position if self._include_in_output else position - len(stop)], stop
        num_held = max(self._progress, default=0)
        self._held = buffer[len(buffer) - num_held :]
        return buffer[: len(buffer) - num_held], None

    def flush(self) -> str:
        """What was held back, once no more text comes."""
        text, self._held = self._held, ""
        self._progress = [0] * len(self._stops)
        return text

    def _advance(self, character: str) -> str | None:
        """One Knuth-Morris-Pratt step of every stop string; the longest one completed, or None."""
        completed = None
        for index, (stop, borders) in enumerate(zip(self._stops, self._borders, strict=True)):
            size = self._progress[index]
            while size and stop[size] != character:
                size = borders[size - 1]
            size += stop[size] == character
            if size == len(stop):
                completed = completed or stop
                size = borders[size - 1]
            self._progress[index] = size
        return completed


def _borders(stop: str) -> list[int]:
    """For each prefix of the string: the length of its longest proper prefix that is also its suffix."""
    borders = [0]
    for character in stop[1:]:
        size = borders[-1]
        while size and stop[size] != character:
            size = borders[size - 1]
        borders.append(size + (stop[size] == character))
    return borders
