"""The English clean-up that some tokenizers run over decoded text, for a whole text and for a growing one."""

RULES = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)
"""Replacements in their order; each reads the result of those before it. What is replaced begins with a space."""


def clean_up(text: str) -> str:
    """The whole text with all rules applied."""
    for old, new in RULES:
        text = text.replace(old, new)
    return text


class CleanUpStream:
    """The same over a growing text: `push` gives what no later text can change any more, `flush` the rest."""

    def __init__(self) -> None:
        self._held = [""] * len(RULES)

    def push(self, text: str) -> str:
        """Add text; returns the newly settled text."""
        for index, (old, new) in enumerate(RULES):
            if not text:
                return ""
            if " " not in text and not self._held[index]:
                continue
            text, self._held[index] = _replace(self._held[index] + text, old, new)
        return text

    def flush(self) -> str:
        """What was held back, settled because nothing follows; the stream is as new afterwards."""
        text = ""
        for index, (old, new) in enumerate(RULES):
            text = (self._held[index] + text).replace(old, new)
            self._held[index] = ""
        return text


def _replace(text: str, old: str, new: str) -> tuple[str, str]:
    """Settled text with `old` replaced, and the tail that could still become an `old`."""
    settled = text.split(old)
    tail = settled.pop()
    keep = next((size for size in range(min(len(old) - 1, len(tail)), 0, -1) if old.startswith(tail[-size:])), 0)
    settled.append(tail[: len(tail) - keep])
    return new.join(settled), tail[len(tail) - keep :]
