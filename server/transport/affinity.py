"""Where a job's beginning was last computed: a conversation's next turn finds its keys and values at that worker.

A gateway has no tokenizer. It knows a beginning by a digest over tenant, salt, tools and the messages so far, part by
part, a picture by its URL, or by a sample of it where it holds the picture. Only digests are kept, and no more than so
many of them; contents never. All of it is a hint: a wrong one costs a worker a computation that it might have spared,
and nothing else.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from schemas.data_url import Buffer
from schemas.jobs import ChatJob, CompletionJob, Job, Message, TextPart

MAX_DIGESTS = 65536
"""Of one gateway: about 15 MiB."""
MAX_BEGINNINGS = 64
"""Of one job: its longest ones."""
MIN_CHARS = 256
"""Less is computed again sooner than a worker is worth choosing for it. What the system says does not count: after a
while every worker has that, and to follow it would lead all conversations to one of them."""
PIECE_CHARS = 1024
"""A bare prompt has no parts: it is cut into pieces of so many characters."""
SAMPLES, SAMPLE_CHARS = 16, 256
"""Of a longer URL: to read the megabytes of a picture would hold up all streams."""
CHARS_PER_TOKEN = 4
DIGEST_BYTES = 16

_encode = msgspec.msgpack.Encoder().encode
_Piece = tuple[Any, int]
"""Content that follows, and how many characters it counts for; 0 where no beginning ends behind it."""


@dataclass(frozen=True, slots=True)
class AffinityCounts:
    """Jobs whose beginning was known: those that went to the worker that had it, and those that went elsewhere."""

    hits: int = 0
    misses: int = 0


def beginnings(job: Job) -> tuple[bytes, ...]:
    """Digests of the job's beginnings that are worth finding again, the longest one last."""
    chain = hashlib.blake2b(digest_size=DIGEST_BYTES)
    found: list[bytes] = []
    num_chars = 0
    for content, counts_for in _pieces(job):
        data = _encode(content)
        chain.update(len(data).to_bytes(8, "big"))
        chain.update(data)
        num_chars += counts_for
        if counts_for and num_chars >= MIN_CHARS:
            found.append(chain.digest())
    return tuple(found[-MAX_BEGINNINGS:])


class Affinity:
    """Digest of a beginning -> the worker that was last given a job with it.

    margin: how much busier than the least busy worker, in shares of their seats, a worker may be and still be chosen
    for what it has; 0: none is.
    """

    def __init__(self, margin: float, max_digests: int = MAX_DIGESTS) -> None:
        self._margin = margin
        self._max_digests = max_digests
        self._worker_by_digest: OrderedDict[bytes, str] = OrderedDict()
        self._hits = self._misses = 0

    @property
    def is_on(self) -> bool:
        """Whether workers are chosen by what they have at all."""
        return self._margin > 0

    @property
    def counts(self) -> AffinityCounts:
        """Since the start."""
        return AffinityCounts(self._hits, self._misses)

    def choose(self, digests: Sequence[bytes], loads: Mapping[str, float]) -> str | None:
        """The worker that has the most of a job's beginning, unless it is too busy; None: any will do.

        loads: of each worker that can take the job, the share of its seats that are taken.
        """
        worker_id = self.last_with(digests, loads)
        if worker_id is None or loads[worker_id] - min(loads.values()) > self._margin:
            return None
        return worker_id

    def last_with(self, digests: Sequence[bytes], workers: Container[str]) -> str | None:
        """Which of these workers was last given the longest known beginning; None: no beginning is known of them."""
        for digest in reversed(digests):
            worker_id = self._worker_by_digest.get(digest)
            if worker_id is not None and worker_id in workers:
                return worker_id
        return None

    def saw(self, digests: Sequence[bytes], worker_id: str) -> None:
        """A job with these beginnings was given to this worker."""
        longest_known = next((digest for digest in reversed(digests) if digest in self._worker_by_digest), None)
        if longest_known is not None:
            is_hit = self._worker_by_digest[longest_known] == worker_id
            self._hits += is_hit
            self._misses += not is_hit
        for digest in digests:
            self._worker_by_digest[digest] = worker_id
            self._worker_by_digest.move_to_end(digest)
        while len(self._worker_by_digest) > self._max_digests:
            self._worker_by_digest.popitem(last=False)


def _pieces(job: Job) -> Iterator[_Piece]:
    yield (job.model, job.tenant, job.cache_salt), 0
    match job:
        case ChatJob():
            yield (job.tools, job.media), 0
            for message in job.messages:
                yield from _message_pieces(message)
        case CompletionJob(prompt=str(text)):
            for start in range(0, len(text), PIECE_CHARS):
                piece = text[start : start + PIECE_CHARS]
                yield piece, len(piece)
        case CompletionJob(prompt=ids):
            for start in range(0, len(ids), PIECE_CHARS // CHARS_PER_TOKEN):
                piece_ids = ids[start : start + PIECE_CHARS // CHARS_PER_TOKEN]
                yield piece_ids, CHARS_PER_TOKEN * len(piece_ids)


def _message_pieces(message: Message) -> Iterator[_Piece]:
    is_system = message.role in ("system", "developer")
    yield message.role, 0
    for part in message.parts:
        if isinstance(part, TextPart):
            yield ("text", part.text), 0 if is_system else len(part.text)
        else:
            # Where it stood in the client's body is no part of what it is.
            detail = getattr(part, "detail", "")
            text = None if part.text is None else _sample(part.text.data)
            yield (type(part).__name__, _sample(part.url), text, detail), MIN_CHARS
    for call in message.tool_calls:
        yield ("call", call.name, call.arguments), len(call.arguments)


def _sample(url: str | Buffer) -> tuple[int, list[str | Buffer]]:
    """Tells pictures from each other as well as a hint must."""
    step = max(SAMPLE_CHARS, len(url) // SAMPLES)
    return len(url), [url[start : start + SAMPLE_CHARS] for start in range(0, len(url), step)]
