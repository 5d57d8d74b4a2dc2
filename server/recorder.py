"""Writes down an answer that is being made, behind what is written down of it already.

Nothing is given to a client before it is written down: whoever goes on with the answer knows all that was given.
"""

import asyncio
import logging
from collections.abc import Sequence

from schemas.errors import Unavailable
from server.transport.answers import AnswerLost, SharedAnswers

RETRY_S = 0.25

log = logging.getLogger(__name__)


class Recorder:
    """known: what is written down, each piece's part that is compared. patience_s: how long what is shared may be out
    of reach; behind that nothing is written any more."""

    def __init__(
        self, answers: SharedAnswers, name: str, token: bytes, known: Sequence[bytes], patience_s: float
    ) -> None:
        self._answers = answers
        self._name = name
        self._token = token
        self._known = b"".join(known)
        self._patience_s = patience_s
        self.size_bytes = 0
        """Of what was made."""
        self.num_pieces = len(known)
        """What is written down."""
        self.is_ours = True
        """Whether what is written still counts."""

    def news(self, made: bytes) -> bytes:
        """What is new in the next part of the answer. Raises AnswerLost where it is not what is written down."""
        start = self.size_bytes
        self.size_bytes += len(made)
        known = self._known[start : self.size_bytes]
        if not made.startswith(known):
            log.error("an answer that another gateway began would go on as another one here")
            raise AnswerLost
        return made[len(known) :]

    async def write(self, piece: bytes, *, is_last: bool = False) -> bool:
        """Add a piece. Returns whether it is written down; once it is not, nothing more is."""
        waited_s = 0.0
        while self.is_ours:
            try:
                self.is_ours = await self._answers.write(
                    self._name, self._token, self.num_pieces, [piece], is_last=is_last
                )
                self.num_pieces += 1
                break
            except Unavailable as error:
                if not waited_s:
                    log.warning("an answer waits to be written down: %s", error)
                self.is_ours = waited_s < self._patience_s
            await asyncio.sleep(RETRY_S)
            waited_s += RETRY_S
        return self.is_ours

    async def end(self) -> None:
        """It is whole. Raises Unavailable."""
        await self._answers.write(self._name, self._token, self.num_pieces, (), is_last=True)

    async def leave(self) -> None:
        """Anybody may go on with it. Raises Unavailable."""
        await self._answers.leave(self._name, self._token)

    async def drop(self) -> None:
        """It is worth nothing. Raises Unavailable."""
        await self._answers.drop(self._name, self._token)
