"""Answers that gateways have in common: what one of them is making for an `Idempotency-Key`, another can give."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol


class Holder(Enum):
    """Who answers the request that a name stands for."""

    US = auto()
    """This gateway, from now on."""
    OTHERS = auto()
    """Another one does, or has: its answer is to be read."""
    ANOTHER_REQUEST = auto()
    """The name is taken by a request with another fingerprint."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What came of asking for a name. token: proves that the answer is ours to write."""

    holder: Holder
    token: bytes = b""


class AnswerLost(Exception):
    """An answer that is being read has no end: its gateway is gone, or has given it up."""


class SharedAnswers(Protocol):
    """Answers by name. Each is written once by one gateway, piece by piece, and read from its beginning by any.

    All of it may raise Unavailable, when what is shared cannot be reached.
    """

    async def claim(self, name: str, fingerprint: bytes) -> Claim:
        """Ask who answers. A name whose gateway is gone before its answer was whole is anybody's."""
        ...

    async def write(self, name: str, token: bytes, pieces: Sequence[bytes], *, is_last: bool) -> bool:
        """Add to an answer of ours; False when it is not ours any more."""
        ...

    async def drop(self, name: str, token: bytes) -> None:
        """Forget an answer of ours: whoever asks for it next has to make it."""
        ...

    def read(self, name: str) -> AsyncIterator[bytes]:
        """The pieces of another gateway's answer, as they come, until the last one. Raises AnswerLost."""
        ...
