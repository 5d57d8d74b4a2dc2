"""Which chunk of a prompt is computed beside the steps: one at a time, and only where it is worth it. No tensors."""

from workers.engine.plan import Chunk
from workers.engine.sequence import Sequence

MIN_TOKENS = 32
"""A step soon has so many with it; to begin something beside it takes time as well."""


class PrefillBeside:
    """The chunk that is planned or under way. Its sequence has no part in the steps, and its pages stay its own.

    most_tokens: of a chunk; 0: nothing is computed so.
    """

    def __init__(self, most_tokens: int) -> None:
        self._most_tokens = most_tokens
        self._is_open = False
        self._planned: Chunk | None = None
        self._under_way: Chunk | None = None

    @property
    def is_busy(self) -> bool:
        """Whether there is a chunk."""
        return self._under_way is not None or self._planned is not None

    def begin(self, is_open: bool) -> None:
        """A step is to be planned, beside which a chunk may begin or not."""
        self._is_open = is_open

    def take(self) -> Chunk | None:
        """What is to begin with the planned step."""
        planned, self._planned = self._planned, None
        if planned is not None:
            self._under_way = planned
        return planned

    def holds(self, seq: Sequence) -> bool:
        """Whether this is the sequence."""
        chunk = self._under_way or self._planned
        return chunk is not None and chunk.seq is seq

    def length(self, seq: Sequence) -> int:
        """How many of the sequence's next tokens are to be computed beside the steps; the last one, behind which the
        next token is sampled, never is."""
        is_worth_it = seq.num_uncomputed > MIN_TOKENS and seq.num_prompt_logprobs is None
        if not self._is_open or self.is_busy or not is_worth_it:
            return 0
        return min(self._most_tokens, seq.num_uncomputed - 1)

    def plan(self, seq: Sequence, start: int, end: int) -> None:
        """Tokens [start, end) are to be computed beside the steps."""
        self._planned = Chunk(seq, start, end - start, samples=False)

    def done(self) -> Chunk:
        """What was under way is over. Raises ValueError where nothing was."""
        chunk, self._under_way = self._under_way, None
        if chunk is None:
            raise ValueError("nothing is computed beside the steps")
        return chunk
