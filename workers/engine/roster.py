"""Who is here, who has a seat, and whose pages are taken for whom. Knows no tokens of a step and no budget.

Everything goes by order = (priority, arrival). Whoever has to give way loses all pages and starts over later from what
the prefix cache still has; its outputs stay.
"""

from bisect import insort
from collections.abc import Callable
from operator import attrgetter

from workers.engine.block_manager import BlockManager
from workers.engine.encoder_cache import EncoderCache
from workers.engine.sequence import Sequence, Status

order_of = attrgetter("order")


class Roster:
    """Sequences with seats and without, both ascending by order. Nobody else may change the two lists.

    max_num_seqs: how many seats there are. is_held: whether a sequence's pages are being written, so that it can
    neither end nor give way.
    """

    def __init__(
        self,
        block_manager: BlockManager,
        encoder_cache: EncoderCache,
        max_num_seqs: int,
        is_held: Callable[[Sequence], bool],
    ) -> None:
        self._block_manager = block_manager
        self._encoder_cache = encoder_cache
        self._max_num_seqs = max_num_seqs
        self._is_held = is_held
        self._sequences: dict[str, Sequence] = {}
        self._num_arrivals = 0
        self._preempted: list[str] = []
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def num_seated(self) -> int:
        """How many would have seats if pages were no matter."""
        return min(len(self._sequences), self._max_num_seqs)

    def get(self, request_id: str) -> Sequence | None:
        """The sequence with this id, if it is here."""
        return self._sequences.get(request_id)

    def with_medium(self, key: bytes) -> list[Sequence]:
        """All that hold this medium."""
        return [seq for seq in self._sequences.values() if any(item.key == key for item in seq.media)]

    def fits(self, seq: Sequence) -> bool:
        """Whether the whole pool is enough for the sequence up to its last token, which itself needs no slot."""
        num_slots = max(seq.num_tokens, seq.max_total_tokens - 1)
        return self._block_manager.blocks_for(num_slots) <= self._block_manager.num_blocks

    def add(self, seq: Sequence) -> None:
        """Queue a sequence and number its arrival. Raises ValueError when its id is taken or it can never fit."""
        if seq.request_id in self._sequences:
            raise ValueError(f"request id {seq.request_id} is already in use")
        if not self.fits(seq):
            raise ValueError(f"{seq.request_id} needs more blocks than there are")
        self._num_arrivals += 1
        seq.arrival = self._num_arrivals
        self._sequences[seq.request_id] = seq
        insort(self.waiting, seq, key=order_of)

    def finish(self, seq: Sequence, status: Status) -> None:
        """End a sequence with a finished status. Raises ValueError when it is not here, is held, or the status is no
        end."""
        is_here = self._sequences.get(seq.request_id) is seq and not self._is_held(seq)
        if not is_here or status <= Status.PREEMPTED:
            raise ValueError(f"cannot finish {seq.request_id} as {status.name}")
        (self.running if seq.status is Status.RUNNING else self.waiting).remove(seq)
        del self._sequences[seq.request_id]
        self._release(seq)
        seq.status = status

    def admit_first(self) -> bool:
        """Give the first waiting sequence a seat and pages for all its tokens; False when it must go on waiting."""
        seq = self.waiting[0]
        while not self._has_room(seq):
            last = self.running[-1] if self.running else None
            if last is None or last.priority <= seq.priority or self._is_held(last):
                return False
            self._preempt(last)
        self.waiting.pop(0)
        self._block_manager.allocate(seq, seq.num_tokens)
        if seq.status is Status.WAITING:
            seq.num_cached_tokens = min(seq.num_computed_tokens, seq.num_prompt_tokens)
        seq.status = Status.RUNNING
        insort(self.running, seq, key=order_of)
        return True

    def make_room(self, seq: Sequence, num_tokens: int) -> bool:
        """Find pages for a running sequence; False when it was itself the last in order and lost its own, or has to
        wait for the last one, which is held."""
        while not self._block_manager.can_allocate(seq, num_tokens):
            victim = self.running[-1]
            if self._is_held(victim):
                return False
            self._preempt(victim)
            if victim is seq:
                return False
        self._block_manager.allocate(seq, num_tokens)
        return True

    def take_preempted(self) -> tuple[str, ...]:
        """Ids of those that had to give way since the last call."""
        preempted = tuple(self._preempted)
        self._preempted.clear()
        return preempted

    def _has_room(self, seq: Sequence) -> bool:
        # One page for each running sequence stays free, lest the next step has to preempt.
        num_running = len(self.running)
        return num_running < self._max_num_seqs and self._block_manager.can_allocate(
            seq, seq.num_tokens, num_spare_blocks=num_running
        )

    def _preempt(self, seq: Sequence) -> None:
        self.running.remove(seq)
        self._release(seq)
        seq.status = Status.PREEMPTED
        seq.num_computed_tokens = 0
        self._preempted.append(seq.request_id)
        insort(self.waiting, seq, key=order_of)

    def _release(self, seq: Sequence) -> None:
        self._block_manager.free(seq)
        for item in seq.media:
            self._encoder_cache.release(item.key, seq.request_id)
