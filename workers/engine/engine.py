"""The serving core of one model: sequences in, tokens out, one step at a time. Joins scheduler, runner and sampler."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from torch import Tensor

from schemas.errors import EngineError, GlimpsedError
from workers.engine.batch import packing_order
from workers.engine.block_manager import BlockManager
from workers.engine.companion import Companion
from workers.engine.faults import Suspects, is_of_device
from workers.engine.plan import StepPlan
from workers.engine.runner import EncodingFailed, Runner
from workers.engine.sampler import Choice, Logprobs, Row, sample
from workers.engine.scheduler import Scheduler
from workers.engine.sequence import Sequence, Status
from workers.grammar.masks import MaskFiller, MaskJob

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """One new token of one sequence; `finish_reason` is set with its last."""

    request_id: str
    token_id: int
    logprobs: Logprobs | None
    finish_reason: str | None


@dataclass(frozen=True, slots=True)
class SequenceFailed:
    """A sequence ended by an error of its own; its pages are free. reason: for the log. error: for the client."""

    request_id: str
    reason: str
    error: GlimpsedError


@dataclass(slots=True)
class Counters:
    """What an engine has done since it started. Tokens that were computed again after a preemption count again."""

    steps: int = 0
    prefill_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
    encoded_items: int = 0
    encoded_tokens: int = 0
    preemptions: int = 0


class Engine:
    """Not thread-safe: one thread calls `add`, `abort` and `step`."""

    def __init__(
        self,
        scheduler: Scheduler,
        block_manager: BlockManager,
        runner: Runner,
        companion: Companion | None = None,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """companion: where pictures and prompts are computed beside the steps, for a scheduler that plans so. clock:
        tells the scheduler what steps take; time that other processes had of it should not count."""
        self.scheduler = scheduler
        self.block_manager = block_manager
        self.counters = Counters()
        self._runner = runner
        self._masks = MaskFiller()
        self._suspects = Suspects()
        self._companion = companion
        self._clock = clock
        self._encoding: Future[dict[bytes, Tensor]] | None = None  # at most one of these two
        self._prefilling: Future[None] | None = None
        self._turn_s = 0.0  # what the companion may have of the time before the next step

    def add(self, seq: Sequence) -> None:
        """Queue a sequence. Raises ValueError when it could never fit into the K/V pool (ask `scheduler.fits`)."""
        self.scheduler.add(seq)

    def abort(self, request_id: str) -> None:
        """Forget a sequence wherever it is; unknown ids are fine. Its blocks are free when this returns: what is being
        computed of it beside the steps is waited for."""
        if self._companion is not None and self.scheduler.is_prefilling_beside(request_id):
            self._companion.finish()
            self._take_done()
        self.scheduler.abort(request_id)

    @property
    def is_busy_beside(self) -> bool:
        """Whether pictures or a prompt are being computed beside the steps."""
        return self._encoding is not None or self._prefilling is not None

    def step(self) -> list[TokenOutput | SequenceFailed]:
        """Schedule, run, sample, account. Returns the new tokens of this step.

        A medium that cannot be encoded ends the sequences that hold it; the others repeat the step. Where a step raises
        otherwise, each of its sequences repeats it alone, and the one with which it raises again ends. What comes
        through is the device's fault or ours: the engine is not to be used again.
        """
        if self._companion is not None and self.is_busy_beside:
            self._companion.take_turn(self._turn_s)
        failed = self._take_done()
        if failed:
            return failed
        plan = self.scheduler.schedule(self._suspects.next())
        if self._companion is not None:
            self._begin_beside(self._companion, plan)
            if not plan.chunks and self.is_busy_beside:
                self._companion.finish()
                self._runner.execute(plan)  # it lets embeddings go, though there is nothing to compute
                return self._take_done()
        began_s = self._clock()
        try:
            sampled = self._compute(plan)
        except EncodingFailed as error:
            self.scheduler.discard(plan)
            return self._fail(plan, error)
        except Exception as error:
            if not plan.chunks or is_of_device(error, self._runner.device):
                raise
            return self._suspect(plan, error)
        step_s = self._clock() - began_s
        tokens = {seq.request_id: choice.token_id for seq, choice in sampled}
        self.scheduler.update(plan, tokens, None if plan.encode else step_s)
        is_shared = plan.num_tokens > len(plan.chunks)
        self._turn_s = self.scheduler.prompt_share * step_s / (2 if is_shared else 1)
        if plan.chunks:
            self._suspects.went_well()
            self._count(plan, len(sampled))
        return [self._account(seq, choice) for seq, choice in sampled]

    def _compute(self, plan: StepPlan) -> list[tuple[Sequence, Choice]]:
        """Each sequence that samples with its next token. Does nothing that could not be done again."""
        # They depend on earlier tokens alone: they are filled while the model computes.
        pending = self._masks.start(_mask_jobs(plan))
        try:
            result = self._runner.execute(plan)
        finally:
            masks = pending.wait() if pending else None
        if result is None:
            return []
        sequences = result.batch.sample_seqs
        rows = [Row(seq.sampling, seq.token_ids, seq.num_prompt_tokens) for seq in sequences]
        choices = sample(result.logits, rows, masks) if rows else []
        for prompt_rows, scored in zip(result.batch.prompt_rows, result.scored, strict=True):
            prompt_rows.seq.prompt_logprobs |= dict(enumerate(scored, start=prompt_rows.position))
        return list(zip(sequences, choices, strict=True))

    def _suspect(self, plan: StepPlan, error: Exception) -> list[TokenOutput | SequenceFailed]:
        """A step has raised, not by the device's fault: find the sequence that makes it raise, and end that one."""
        log.error("a step of %d sequences raised", len(plan.chunks), exc_info=error)
        self.scheduler.discard(plan)
        guilty = self._suspects.guilty([chunk.seq for chunk in plan.chunks])
        if self._suspects.are_too_many:
            raise error
        if guilty is None:
            return []
        return [self._end_guilty(guilty, error)]

    def _end_guilty(self, seq: Sequence, error: Exception) -> SequenceFailed:
        self.scheduler.finish(seq, Status.FINISHED_ERROR)
        return SequenceFailed(seq.request_id, repr(error), EngineError("The model failed on this request."))

    def _begin_beside(self, companion: Companion, plan: StepPlan) -> None:
        if plan.encode_beside:
            self._encoding = companion.encode(self._runner, plan.encode_beside)
            self.counters.encoded_items += len(plan.encode_beside)
        if plan.prefill_beside:
            self._prefilling = companion.prefill(self._runner, plan.prefill_beside)

    def _take_done(self) -> list[TokenOutput | SequenceFailed]:
        """Take in what was computed beside the steps, if it is done. Returns the sequences that ended because it could
        not be."""
        if self._encoding is not None and self._encoding.done():
            encoding, self._encoding = self._encoding, None
            return self._take_encoded(encoding)
        if self._prefilling is not None and self._prefilling.done():
            prefilling, self._prefilling = self._prefilling, None
            return self._take_prefilled(prefilling)
        return []

    def _take_encoded(self, encoding: "Future[dict[bytes, Tensor]]") -> list[TokenOutput | SequenceFailed]:
        try:
            self._runner.keep(encoding.result())
        except EncodingFailed as error:
            return _failures(self.scheduler.fail_beside(error.key), error)
        self.counters.encoded_tokens += self.scheduler.encoded_beside()
        return []

    def _take_prefilled(self, prefilling: "Future[None]") -> list[TokenOutput | SequenceFailed]:
        error = prefilling.exception()
        if error is None:
            self.counters.prefill_tokens += self.scheduler.prefilled_beside()
            return []
        if not isinstance(error, Exception) or is_of_device(error, self._runner.device):
            raise error
        log.error("a chunk beside the steps raised", exc_info=error)
        return [self._end_guilty(self.scheduler.discard_prefilled(), error)]

    def _fail(self, plan: StepPlan, error: EncodingFailed) -> list[TokenOutput | SequenceFailed]:
        """End every sequence of the step that holds the medium."""
        failed = [chunk.seq for chunk in plan.chunks if any(item.key == error.key for item in chunk.seq.media)]
        for seq in failed:
            self.scheduler.finish(seq, Status.FINISHED_ERROR)
        return _failures(failed, error)

    def _account(self, seq: Sequence, choice: Choice) -> TokenOutput | SequenceFailed:
        """End the sequence where its new token says so, or where its grammar cannot go on."""
        try:
            is_whole = seq.grammar is not None and seq.grammar.advance(choice.token_id)
        except GlimpsedError as error:
            self.scheduler.finish(seq, Status.FINISHED_ERROR)
            return SequenceFailed(seq.request_id, error.message, error)
        if is_whole:
            self.scheduler.finish(seq, Status.FINISHED_STOP)
        elif choice.token_id in seq.sampling.stop_token_ids and seq.num_output_tokens > seq.sampling.min_tokens:
            self.scheduler.finish(seq, Status.FINISHED_STOP)
        elif seq.is_at_limit:
            self.scheduler.finish(seq, Status.FINISHED_LENGTH)
        return TokenOutput(seq.request_id, choice.token_id, choice.logprobs, seq.finish_reason)

    def _count(self, plan: StepPlan, num_sampled: int) -> None:
        done = self.counters
        done.steps += 1
        done.generated_tokens += num_sampled
        done.encoded_items += len(plan.encode)
        done.encoded_tokens += sum(item.encoded_length for item in plan.encode)
        done.preemptions += len(plan.preempted)
        for chunk in plan.chunks:
            if chunk.length > 1 or chunk.start < chunk.seq.num_prompt_tokens:
                done.prefill_tokens += chunk.length
            if chunk.samples and chunk.seq.num_output_tokens == 1:
                done.cached_tokens += chunk.seq.num_cached_tokens


def _failures(sequences: list[Sequence], error: EncodingFailed) -> list[TokenOutput | SequenceFailed]:
    shown = EngineError("The model could not process this request's media.")
    return [SequenceFailed(seq.request_id, str(error), shown) for seq in sequences]


def _mask_jobs(plan: StepPlan) -> list[MaskJob]:
    """The masks that a step needs."""
    jobs: list[MaskJob] = []
    decodes, prefills = packing_order(plan.chunks)
    for row, seq in enumerate(chunk.seq for chunk in (*decodes, *prefills) if chunk.samples):
        if seq.grammar is not None:
            banned_ids = seq.sampling.banned_ids(seq.token_ids, seq.num_prompt_tokens)
            jobs.append(MaskJob(row, seq.grammar, banned_ids))
    return jobs
