"""SharedAnswers in the memory of the one gateway that there is."""

import asyncio
import secrets
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from server.transport.answers import MAX_ANSWERS, RESUME_WINDOW_S, AnswerLost, Claim, Holder

MAX_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class _Answer:
    fingerprint: bytes
    token: bytes
    written_s: float
    pieces: list[bytes] = field(default_factory=list)
    has_writer: bool = True
    has_ended: bool = False
    size_bytes: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        """Wake whoever waits for something to have changed."""
        self.news.set()
        self.news = asyncio.Event()


class MemoryAnswers:
    """See SharedAnswers. clock: seconds, monotonic. max_bytes: of all answers together; the oldest of the tenant that
    has most go first."""

    def __init__(
        self, clock: Callable[[], float], window_s: float = RESUME_WINDOW_S, max_bytes: int = MAX_BYTES
    ) -> None:
        self._clock = clock
        self._window_s = window_s
        self._max_bytes = max_bytes
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._size_bytes = 0

    async def claim(self, name: str, fingerprint: bytes, *, is_forced: bool = False) -> Claim:
        """See SharedAnswers. What was begun and not ended counts as given up, as nobody else could be at it."""
        self._forget_old()
        answer = self._answers.get(name)
        if answer is not None and answer.fingerprint != fingerprint:
            return Claim(Holder.ANOTHER_REQUEST)
        if answer is not None and answer.has_ended:
            return Claim(Holder.OTHERS)
        token = secrets.token_bytes(16)
        if answer is None:
            answer = self._answers[name] = _Answer(fingerprint, token, self._clock())
        answer.token, answer.has_writer = token, True
        self._touch(name, answer)
        return Claim(Holder.US, token)

    async def write(self, name: str, token: bytes, at: int, pieces: Sequence[bytes], *, is_last: bool) -> bool:
        """See SharedAnswers."""
        answer = self._ours(name, token)
        if answer is None or len(answer.pieces) < at:
            return False
        if len(answer.pieces) == at:
            answer.pieces += pieces
            size_bytes = sum(map(len, pieces))
            answer.size_bytes += size_bytes
            self._size_bytes += size_bytes
        answer.has_ended = answer.has_ended or is_last
        self._touch(name, answer)
        answer.tell()
        return True

    async def leave(self, name: str, token: bytes) -> None:
        """See SharedAnswers."""
        if (answer := self._ours(name, token)) is not None:
            answer.has_writer = False
            answer.tell()

    async def drop(self, name: str, token: bytes) -> None:
        """See SharedAnswers."""
        if self._ours(name, token) is not None:
            self._forget(name)

    async def forget(self, name: str) -> None:
        """See SharedAnswers."""
        if name in self._answers:
            self._forget(name)

    async def recorded(self, name: str) -> list[bytes]:
        """See SharedAnswers."""
        self._forget_old()
        return list(self._answers[name].pieces) if name in self._answers else []

    async def read(self, name: str, start: int = 0) -> AsyncIterator[bytes]:
        """See SharedAnswers."""
        answer = self._answers.get(name)
        at = start
        while answer is not None and self._answers.get(name) is answer:
            if at < len(answer.pieces):
                at += 1
                yield answer.pieces[at - 1]
            elif answer.has_ended:
                return
            elif not answer.has_writer:
                break
            else:
                await answer.news.wait()
        raise AnswerLost

    def _ours(self, name: str, token: bytes) -> _Answer | None:
        answer = self._answers.get(name)
        return answer if answer is not None and answer.token == token else None

    def _touch(self, name: str, answer: _Answer) -> None:
        """Put an answer last, and let the first ones make room for it."""
        answer.written_s = self._clock()
        self._answers.move_to_end(name)
        own = [other for other in self._answers if _shelf_of(other) == _shelf_of(name)]
        for oldest in own[: max(0, len(own) - MAX_ANSWERS)]:
            self._forget(oldest)
        self._forget_old()
        while self._size_bytes > self._max_bytes and len(self._answers) > 1:
            self._forget_of_the_largest()

    def _forget_old(self) -> None:
        oldest_s = self._clock() - self._window_s
        while self._answers:
            name, answer = next(iter(self._answers.items()))
            if answer.written_s > oldest_s:
                return
            self._forget(name)

    def _forget_of_the_largest(self) -> None:
        sizes: Counter[str] = Counter()
        for name, answer in self._answers.items():
            sizes[_shelf_of(name)] += answer.size_bytes
        largest = sizes.most_common(1)[0][0]
        self._forget(next(name for name in self._answers if _shelf_of(name) == largest))

    def _forget(self, name: str) -> None:
        answer = self._answers.pop(name)
        self._size_bytes -= answer.size_bytes
        answer.tell()


def _shelf_of(name: str) -> str:
    """What stands for its tenant."""
    return name.partition(":")[0]
