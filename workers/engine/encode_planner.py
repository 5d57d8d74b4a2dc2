"""Which media the vision tower takes in a step, or beside the steps, and how far chunks may go for them. No tensors.

In a step: the tower runs first, for the spans that the step's chunks touch. A chunk ends before a span that can be
neither found nor encoded, and then nobody behind it encodes, so that a large item cannot starve. The first item of a
step may be larger than the step's budget.

Beside the steps, where the scheduler says so because somebody decodes: nobody's next token waits for the tower.
It takes one batch at a time, of what comes next in the prompt, so that it is at the next pictures while chunks go over
the last ones. Chunks end before spans until these are there.
"""

from workers.engine.encoder_cache import EncoderCache
from workers.engine.sequence import MediaInput, Sequence


class EncodePlanner:
    """Plans over the encoder cache: `begin` and `take` enclose the planning of a step; `claim` is for each chunk, and
    `look_ahead` for what follows it."""

    def __init__(self, cache: EncoderCache, max_encode_tokens: int) -> None:
        self._cache = cache
        self._max_tokens = max_encode_tokens
        self._awaited: tuple[MediaInput, ...] = ()
        self._planned: list[MediaInput] = []
        self._budget = 0
        self._is_beside = False
        self._is_encoding = False

    @property
    def is_awaiting(self) -> bool:
        """Whether something is being encoded beside the steps, or is planned to be."""
        return bool(self._awaited) or (self._is_beside and bool(self._planned))

    def begin(self, is_beside: bool) -> None:
        """A step is to be planned, with the tower in it or beside it: beside it in any case while it is at work."""
        self._planned = []
        self._budget = self._max_tokens
        self._is_beside = is_beside or bool(self._awaited)
        self._is_encoding = True

    def take(self) -> tuple[tuple[MediaInput, ...], tuple[MediaInput, ...]]:
        """What is to be encoded in the planned step, and what beside it; one of them is empty."""
        planned, self._planned = tuple(self._planned), []
        if not self._is_beside:
            return planned, ()
        self._awaited += planned
        return (), planned

    def claim(self, seq: Sequence, start: int, end: int) -> int:
        """Hold the embeddings that tokens [start, end) need; returns where the chunk must end for want of one."""
        for item in seq.media_between(start, end):
            is_there = self._is_encoded(item) if self._is_beside else self._encode(item)
            if not is_there:
                end = max(start, item.start)
                break
            self._cache.acquire(item.key, seq.request_id)
        return end

    def look_ahead(self, seq: Sequence, start: int) -> None:
        """Have the tower, where it is beside the steps and has nothing to do, begin with what comes next. It is held at
        once, lest it goes before use."""
        if not self._is_beside or self._awaited:
            return
        for item in seq.media_between(start, seq.num_prompt_tokens):
            if item.key in self._cache:
                continue
            if not self._encode(item):
                return
            self._cache.acquire(item.key, seq.request_id)

    def encoded_beside(self) -> int:
        """What was encoded beside the steps is there; returns how many tokens that were."""
        done, self._awaited = self._awaited, ()
        self._cache.complete(item.key for item in done)
        return sum(item.encoded_length for item in done)

    def discard_beside(self) -> None:
        """What was to be encoded beside the steps never comes; who needs it has it encoded again."""
        failed, self._awaited = self._awaited, ()
        self._cache.discard((item.key for item in failed), ())

    def _is_encoded(self, item: MediaInput) -> bool:
        return item.key in self._cache and not self._cache.is_pending(item.key)

    def _encode(self, item: MediaInput) -> bool:
        """Whether the item is in the cache, or will be when what is planned was encoded."""
        if item.key in self._cache:
            return True
        length = item.encoded_length
        is_within_budget = length <= self._budget or not self._planned
        if not (self._is_encoding and is_within_budget and self._cache.can_add(length)):
            self._is_encoding = False
            return False
        self._cache.add(item.key, length)
        self._planned.append(item)
        self._budget -= length
        return True
