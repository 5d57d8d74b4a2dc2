"""Answers that are written down as they are made, by name, so that somebody else can give them, or go on with them.

What a piece says is the writer's affair. A name begins with what stands for its tenant, and a colon (see `name_of`):
how much is kept is bounded for each of them.
"""

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

MAX_ANSWERS = 256
"""Of one tenant, running and ended; the one that was written to least lately makes room."""
MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""Of an answer that is written down."""
RESUME_WINDOW_S = 600.0


def name_of(tenant: str, key: str) -> str:
    """What a tenant's answer is called: of one length, and no client's text."""
    shelf, rest = hashlib.sha256(tenant.encode()), hashlib.sha256(f"{tenant}\n{key}".encode())
    return f"{shelf.hexdigest()[:32]}:{rest.hexdigest()}"


class Holder(Enum):
    """Who answers the request that a name stands for."""

    US = auto()
    """This gateway, from now on, behind what is recorded."""
    OTHERS = auto()
    """Another one does, or it is whole: it is to be read."""
    ANOTHER_REQUEST = auto()
    """The name is taken by a request with another fingerprint."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What came of asking for a name. token: proves that the answer is ours to write."""

    holder: Holder
    token: bytes = b""


class AnswerLost(Exception):
    """An answer that is being read is not whole, and nobody is at it: its gateway is gone, or has left it."""


class SharedAnswers(Protocol):
    """Answers by name. Each is written by one gateway at a time, piece by piece, and read by any.

    An answer is forgotten some time behind its last piece. All of it may raise Unavailable, when what is shared cannot
    be reached.
    """

    async def claim(self, name: str, fingerprint: bytes, *, is_forced: bool = False) -> Claim:
        """Ask who answers. An answer that is not whole and whose gateway is gone is anybody's, and begun if there is
        none; `is_forced`: also one that another gateway is at, whose words do not count any more from now on."""
        ...

    async def write(self, name: str, token: bytes, at: int, pieces: Sequence[bytes], *, is_last: bool) -> bool:
        """Add to an answer of ours that has `at` pieces, once however often it is said; False when it is not ours any
        more, or has lost some."""
        ...

    async def leave(self, name: str, token: bytes) -> None:
        """Let anybody go on with an answer of ours."""
        ...

    async def drop(self, name: str, token: bytes) -> None:
        """Forget an answer of ours: whoever asks for it next has to make it."""
        ...

    async def forget(self, name: str) -> None:
        """Forget an answer, whoever makes it."""
        ...

    async def recorded(self, name: str) -> list[bytes]:
        """The pieces that there are."""
        ...

    def read(self, name: str, start: int = 0) -> AsyncIterator[bytes]:
        """The pieces from this one on, as they come, until the last one, whoever writes them. Raises AnswerLost."""
        ...
