"""Who runs in the next step, and with how many tokens. Decides; the runner computes. No tensors, no clock, no settings.

Everything goes by order = (priority, arrival); within one priority nobody overtakes.
- Every running sequence that decodes gets its token in every step. What is left of the token budget goes to prefills
  and new admissions in order, in chunks. Where a step takes as long as its tokens are many, those who decode need not
  wait for more than some of these: see prefill_pace.
- A sequence is admitted when there is a seat and pages for all its tokens, so only decoding ever runs out of pages.
- Out of pages: the last running sequence in order loses all of its own, perhaps the one that asked; see roster. A
  waiting sequence of a higher priority takes seats and pages from running ones of a lower priority in the same way.
- A chunk ends before the span of a picture that is not encoded yet and cannot be in this step: see encode_planner.
- Beside the steps there may be one chunk or one batch of pictures under way; see prefill_beside. Until the chunk is
  done, its sequence is in no step and keeps its pages; who needs them waits.
- Where the model cannot divide a line of placeholder tokens, no chunk ends within one.

Progress: the first sequence in order can always take the pages of all others, and what others hold of the encoder
cache is let go as they pass their spans. So any sequence that fits the pool alone completes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from workers.engine.block_manager import BlockManager
from workers.engine.encode_planner import EncodePlanner
from workers.engine.encoder_cache import EncoderCache
from workers.engine.plan import Chunk, StepPlan
from workers.engine.prefill_beside import PrefillBeside
from workers.engine.prefill_pace import PrefillPace
from workers.engine.roster import Roster, order_of
from workers.engine.sequence import Sequence, Status


@dataclass(slots=True)
class _Step:
    """What is still to give away in the step being planned, and what was given."""

    budget: int  # tokens for prefills and admissions; decodes have theirs set aside
    chunks: list[Chunk] = field(default_factory=list)
    is_admitting: bool = True


class Scheduler:
    """Continuous batching over the pages of one pool.

    The engine calls, in turn: `schedule`, then the runner, then `update` (or `discard` when the runner failed). `add`,
    `abort` and `finish` belong between these, not while the runner reads a plan; an end between the run and `update` is
    allowed, `update` then passes the sequence over.

    max_num_seqs: most sequences running at once.
    max_num_batched_tokens: most tokens in one step.
    max_encode_tokens: most visual tokens encoded in one step (one larger item runs alone).
    prefill_chunk: most tokens of one sequence in one step; None: only the step's budget limits it.
    media_unit: placeholder tokens of a span come in lines of so many, which one chunk holds whole. A chunk is cut down
        to whole lines; one line more than the limits allow is taken where there would be nothing else.
    beside_share: pictures and prompts can be computed while steps go on, and are where they may have at most such a
        part of the steps' time; 0: they cannot.
    beside_tokens: most of a prompt that is computed so at once; 0: only pictures are.
    pace: how many tokens of prefills a step takes while sequences decode; None: as many as the step's budget leaves.

    Raises ValueError for a limit less than 1 or a token budget too small to decode all running sequences at once.
    """

    def __init__(
        self,
        block_manager: BlockManager,
        encoder_cache: EncoderCache,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_encode_tokens: int,
        prefill_chunk: int | None = None,
        media_unit: int = 1,
        beside_share: float = 0.0,
        beside_tokens: int = 0,
        pace: PrefillPace | None = None,
    ) -> None:
        if min(max_num_seqs, max_encode_tokens, media_unit, 1 if prefill_chunk is None else prefill_chunk) < 1:
            raise ValueError("max_num_seqs, max_encode_tokens, prefill_chunk and media_unit must be at least 1")
        if max_num_batched_tokens < max_num_seqs:
            raise ValueError(f"max_num_batched_tokens {max_num_batched_tokens} < max_num_seqs {max_num_seqs}")
        self._block_manager = block_manager
        self._encoder_cache = encoder_cache
        self._max_num_batched_tokens = max_num_batched_tokens
        self._encodes = EncodePlanner(encoder_cache, max_encode_tokens)
        self._prefills = PrefillBeside(beside_tokens)
        self._roster = Roster(block_manager, encoder_cache, max_num_seqs, self._prefills.holds)
        self._beside_share = beside_share
        self._prefill_chunk = max_num_batched_tokens if prefill_chunk is None else prefill_chunk
        self._media_unit = media_unit
        self._pace = pace
        self.prompt_share = 1.0
        """What prompts may cost those who decode in the step that was planned last, as a part of its time."""

    @property
    def has_work(self) -> bool:
        return len(self._roster) > 0

    @property
    def num_running(self) -> int:
        return len(self._roster.running)

    @property
    def num_waiting(self) -> int:
        """Those never admitted yet and those preempted."""
        return len(self._roster.waiting)

    def fits(self, seq: Sequence) -> bool:
        """See Roster."""
        return self._roster.fits(seq)

    def add(self, seq: Sequence) -> None:
        """See Roster."""
        self._roster.add(seq)

    def abort(self, request_id: str) -> Sequence | None:
        """End a sequence wherever it stands; its pages are free at once. None when there is no such sequence. Raises
        ValueError while a chunk of it is under way beside the steps."""
        seq = self._roster.get(request_id)
        if seq is not None:
            self.finish(seq, Status.FINISHED_ABORTED)
        return seq

    def finish(self, seq: Sequence, status: Status) -> None:
        """See Roster; held is whose chunk is under way beside the steps."""
        self._roster.finish(seq, status)

    def schedule(self, alone: Sequence | None = None) -> StepPlan:
        """Plan the next step. Not empty while there is work, unless all of it waits for what is encoded beside.

        alone: the one running sequence that may take part; then the plan may be empty, too.
        """
        running = self._roster.running
        num_decodes = sum(seq.num_uncomputed == 1 for seq in running)
        step = _Step(self._prefill_budget(num_decodes), is_admitting=alone is None)
        is_beside = num_decodes > 0 and self.prompt_share <= self._beside_share
        self._encodes.begin(is_beside)
        self._prefills.begin(is_beside and alone is None)
        index = 0
        while True:
            is_new = self._is_waiting_next(index, step)
            if is_new:
                step.is_admitting = self._roster.admit_first()
                if not step.is_admitting:
                    continue
            elif index == len(running):
                break
            seq = running[index]
            if alone is None or seq is alone:
                self._give_chunk(seq, is_new, step)
            if seq.status is Status.RUNNING:
                index += 1
        encode, encode_beside = self._encodes.take()
        return StepPlan(
            chunks=tuple(sorted(step.chunks, key=lambda chunk: chunk.length > 1)),
            encode=encode,
            encode_beside=encode_beside,
            prefill_beside=self._prefills.take(),
            drop_embeddings=self._encoder_cache.take_dropped(),
            preempted=self._roster.take_preempted(),
        )

    def update(self, plan: StepPlan, sampled: Mapping[str, int], step_s: float | None = None) -> None:
        """Take in a step that was computed.

        sampled: request id -> next token, for each sampling chunk whose sequence did not end meanwhile. Ends by stop
        token or length are the engine's to see: it calls `finish`. step_s: processor time that the chunks took.
        """
        if self._pace is not None and step_s is not None:
            num_decodes = sum(chunk.length == 1 for chunk in plan.chunks)
            self._pace.note(num_decodes, plan.num_tokens - num_decodes, step_s)
        self._encoder_cache.complete(item.key for item in plan.encode)
        for chunk in plan.chunks:
            if chunk.seq.is_finished:
                continue
            self._take_in(chunk)
            if chunk.samples:
                chunk.seq.token_ids.append(sampled[chunk.seq.request_id])

    def discard(self, plan: StepPlan) -> None:
        """Forget a step that failed: nothing of it counts as computed or encoded, and the next plan may repeat it."""
        self._encoder_cache.discard((item.key for item in plan.encode), plan.drop_embeddings)
        for chunk in plan.chunks:
            self._let_go(chunk)

    def encoded_beside(self) -> int:
        """What a plan had encoded beside the steps is there; returns how many tokens that were."""
        return self._encodes.encoded_beside()

    def fail_beside(self, key: bytes) -> list[Sequence]:
        """This medium cannot be encoded: all sequences that hold it end. Returns them."""
        failed = self._roster.with_medium(key)
        for seq in failed:
            self.finish(seq, Status.FINISHED_ERROR)
        self._encodes.discard_beside()
        return failed

    def is_prefilling_beside(self, request_id: str) -> bool:
        """Whether a chunk of this sequence is under way beside the steps."""
        seq = self._roster.get(request_id)
        return seq is not None and self._prefills.holds(seq)

    def prefilled_beside(self) -> int:
        """The chunk that a plan had computed beside the steps is done; returns how many tokens it had."""
        chunk = self._prefills.done()
        self._take_in(chunk)
        return chunk.length

    def discard_prefilled(self) -> Sequence:
        """The chunk beside the steps could not be computed; nothing of it counts. Returns its sequence."""
        chunk = self._prefills.done()
        self._let_go(chunk)
        return chunk.seq

    def _prefill_budget(self, num_decodes: int) -> int:
        left = self._max_num_batched_tokens - num_decodes
        if self._pace is None or num_decodes == 0:
            self.prompt_share = 1.0
            return left
        self.prompt_share = self._pace.share(num_decodes, self._roster.num_seated - num_decodes)
        # The other half is for what is computed beside the steps.
        is_beside = self._encodes.is_awaiting or self._prefills.is_busy
        share = self.prompt_share / 2 if is_beside else self.prompt_share
        return min(left, self._pace.limit(num_decodes, share))

    def _is_waiting_next(self, index: int, step: _Step) -> bool:
        """Whether the first waiting sequence comes before the running one at `index` and may be tried."""
        running, waiting = self._roster.running, self._roster.waiting
        if not waiting or not step.is_admitting or step.budget == 0:
            return False
        return index == len(running) or order_of(waiting[0]) < order_of(running[index])

    def _give_chunk(self, seq: Sequence, is_new: bool, step: _Step) -> None:
        if self._prefills.holds(seq):
            return
        is_decode = seq.num_uncomputed == 1 and not is_new
        num_beside = 0 if self._encodes.is_awaiting else self._prefills.length(seq)
        length = num_beside or (1 if is_decode else min(seq.num_uncomputed, self._prefill_chunk, step.budget))
        start = seq.num_computed_tokens
        end = self._whole_lines(seq, start, start + length)
        if length == 0 or not self._roster.make_room(seq, end):
            return
        end = self._encodes.claim(seq, start, end)
        if num_beside and start < end < seq.num_tokens:
            self._prefills.plan(seq, start, end)
            return
        if not self._prefills.is_busy:
            self._encodes.look_ahead(seq, start)
        if end == start:
            return
        if not is_decode:
            step.budget = max(0, step.budget - (end - start))
        step.chunks.append(Chunk(seq, start, end - start, samples=end == seq.num_tokens))

    def _whole_lines(self, seq: Sequence, start: int, end: int) -> int:
        """Where a chunk that may go to `end` must end so that it divides no line of placeholders."""
        for item in seq.media_between(end - 1, end):
            over = (end - item.start) % self._media_unit
            if over and item.end > end:
                return end - over if end - over > start else end - over + self._media_unit
        return end

    def _take_in(self, chunk: Chunk) -> None:
        """A chunk was computed."""
        chunk.seq.num_computed_tokens = chunk.end
        self._block_manager.commit(chunk.seq)
        for item in chunk.seq.media_passed(chunk.start, chunk.end):
            self._encoder_cache.release(item.key, chunk.seq.request_id)

    def _let_go(self, chunk: Chunk) -> None:
        """A chunk was not computed."""
        for item in chunk.seq.media_between(chunk.start, chunk.end):
            self._encoder_cache.release(item.key, chunk.seq.request_id)
