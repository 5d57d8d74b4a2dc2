"""Data URLs of which the text is never made a string: its megabytes stay where they came, in a body or a frame."""

from dataclasses import dataclass

Buffer = bytes | bytearray | memoryview


class LongText:
    """Text as bytes, not yet looked at. No dataclass: those go over the wire field by field."""

    __slots__ = ("data",)

    def __init__(self, data: Buffer) -> None:
        self.data = data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LongText) and memoryview(self.data) == other.data

    def __repr__(self) -> str:
        return f"LongText({len(self.data)} bytes)"


@dataclass(frozen=True, slots=True)
class DataUrl:
    """`head`: up to the comma, and with it. `text`: what stands behind it."""

    head: str
    text: LongText

    def __len__(self) -> int:
        return len(self.head) + len(self.text.data)


def split_url(url: str | DataUrl) -> tuple[str, LongText | None]:
    """A URL as a job has it: the part that is a string, and the text behind it where it is held apart."""
    return (url, None) if isinstance(url, str) else (url.head, url.text)


def join_url(url: str, text: LongText | None) -> str | DataUrl:
    """The URL that was split."""
    return url if text is None else DataUrl(url, text)
