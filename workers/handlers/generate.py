"""Answers jobs: prepare, run every choice through the engine, turn ids into text, stop where asked."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from schemas.errors import ErrorCode, RequestError
from schemas.events import Accepted, Delta, Finished, PromptLogprobs, TokenLogprob, TopLogprob
from schemas.jobs import ChatJob, CompletionJob, Job
from workers.backends.native import NativeBackend
from workers.engine.bad_words import BadWords
from workers.engine.engine import TokenOutput
from workers.engine.sampler import Logprobs
from workers.engine.sampling import choice_seed
from workers.engine.sequence import Sequence as EngineSequence
from workers.grammar.library import GrammarLibrary
from workers.grammar.matcher import Matcher
from workers.handlers.bad_words import bad_words_of
from workers.handlers.base import Publish
from workers.handlers.defaults import SamplingDefaults
from workers.handlers.groups import first_error
from workers.handlers.prepare import Prepared, Preparer, prompt_param
from workers.handlers.prompt_logprobs import PromptScorer
from workers.handlers.reply import ReplyText
from workers.models.base import VisionLanguageModel
from workers.tokenizers.base import Tokenizer


@dataclass(frozen=True, slots=True)
class _Emitted:
    """What the client has of a choice already, from a worker that was lost."""

    token_ids: tuple[int, ...] = ()
    is_finished: bool = False


class Generator:
    """Runs chat and completion jobs on one model."""

    def __init__(
        self,
        preparer: Preparer,
        grammars: GrammarLibrary,
        backend: NativeBackend,
        tokenizer: Tokenizer,
        defaults: SamplingDefaults,
        model: VisionLanguageModel,
        max_model_len: int,
        strips_reply: bool,
    ) -> None:
        self._preparer = preparer
        self._grammars = grammars
        self._backend = backend
        self._tokenizer = tokenizer
        self._defaults = defaults
        self._max_model_len = max_model_len
        self._model = model
        self._strips_reply = strips_reply
        self._scorer = PromptScorer(backend, tokenizer)

    async def run(self, job: Job, publish: Publish) -> None:
        """Accepted, Delta*, Finished. Raises GlimpsedError when the job cannot be served."""
        self._check_token_ids(job)
        job = self._preparer.with_grammar_of_calls(job)
        matchers = await self._matchers(job)
        bad_words = await self._bad_words(job)
        prepared = await self._preparer.prepare(job)
        sequences = [self._sequence(job, prepared, i, matcher, bad_words) for i, matcher in enumerate(matchers)]
        scored = await self._scorer.score(job, sequences[0]) if sequences else None
        publish(self._accepted(job, prepared, scored))
        num_generated = await self._run_choices(job, sequences, publish) if sequences else 0
        publish(
            Finished(
                job_id=job.job_id,
                epoch=job.epoch,
                seq=0,
                completion_tokens=num_generated,
                # What scoring the prompt has left in the cache is this job's own work.
                cached_tokens=sequences[0].num_cached_tokens if sequences and scored is None else 0,
            )
        )

    async def _matchers(self, job: Job) -> list[Matcher | None]:
        """For each choice its place in the job's grammar, behind what was emitted before. Raises RequestError."""
        grammar = job.sampling.grammar
        if grammar is None or job.n == 0:
            return [None] * job.n
        compiled = await self._grammars.open(grammar, job.tenant)
        emitted = [_emitted(job, index) for index in range(job.n)]
        return [
            None
            if choice.is_finished
            else await asyncio.to_thread(compiled.start, job.sampling.ignore_eos, choice.token_ids)
            for choice in emitted
        ]

    async def _bad_words(self, job: Job) -> BadWords | None:
        """Raises RequestError."""
        asked = job.sampling
        if not asked.bad_words:
            return None
        stops = self._defaults.stop_token_ids.union(asked.stop_token_ids)
        vocab_size = self._model.vocab_size
        return await asyncio.to_thread(bad_words_of, asked.bad_words, self._tokenizer, vocab_size, stops)

    def _accepted(self, job: Job, prepared: Prepared, scored: PromptLogprobs | None) -> Accepted:
        ids, token_text = prepared.token_ids, self._tokenizer.token_text
        is_echo = isinstance(job, CompletionJob) and job.echo
        wants_texts = job.return_token_texts or (is_echo and job.sampling.logprobs)
        return Accepted(
            job_id=job.job_id,
            epoch=job.epoch,
            seq=0,
            prompt_tokens=len(ids),
            image_tokens=prepared.image_tokens,
            video_tokens=prepared.video_tokens,
            prompt_token_ids=tuple(ids) if job.return_token_ids else None,
            prompt_token_texts=tuple(map(token_text, ids)) if wants_texts else None,
            prompt_text=self._echo(job) if isinstance(job, CompletionJob) and job.echo else None,
            prompt_logprobs=scored,
            tool_form=prepared.tool_form,
            media_digests=prepared.media_digests,
        )

    def _echo(self, job: CompletionJob) -> str:
        if isinstance(job.prompt, str):
            return job.prompt
        return self._tokenizer.decode(job.prompt, skip_special_tokens=False)

    async def _run_choices(self, job: Job, sequences: Sequence[EngineSequence], publish: Publish) -> int:
        """All choices at once, but for the first one's prefill: the others then find the prompt's pages cached. Returns
        how many tokens clients were told; behind a stop string the engine may have made more."""
        has_started = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._run_choice(job, 0, sequences[0], publish, has_started.set))]
                await has_started.wait()
                for index, seq in enumerate(sequences[1:], start=1):
                    tasks.append(group.create_task(self._run_choice(job, index, seq, publish, _ignore)))
        except* Exception as failures:
            raise first_error(failures) from None
        return sum(task.result() for task in tasks)

    async def _run_choice(
        self, job: Job, index: int, seq: EngineSequence, publish: Publish, on_start: Callable[[], None]
    ) -> int:
        emitted = _emitted(job, index)
        start = len(emitted.token_ids)
        if emitted.is_finished or seq.is_at_limit:
            on_start()
            if not emitted.is_finished:
                publish(_nothing_more(job, index, start))
            return start
        is_stripped = self._strips_reply and isinstance(job, ChatJob)
        shown = self._preparer.shown_ids(job)
        reply = ReplyText(self._tokenizer, job.sampling, seq.sampling.stop_token_ids, is_stripped, shown)
        reply.push(emitted.token_ids)
        async with aclosing(self._backend.generate(seq)) as steps:
            async for outputs in steps:
                on_start()
                delta = self._delta(job, index, start, reply, outputs)
                publish(delta)
                start += len(delta.token_ids)
                if delta.finish_reason is not None:
                    break
        return start

    def _delta(self, job: Job, index: int, start: int, reply: ReplyText, outputs: Sequence[TokenOutput]) -> Delta:
        """What some new tokens of a choice tell the client; the last one when a stop string is complete."""
        piece = reply.push([output.token_id for output in outputs])
        used = outputs[: piece.num_tokens]
        finish_reason = "stop" if piece.is_stopped else used[-1].finish_reason
        is_cut = finish_reason is None or piece.is_stopped
        return Delta(
            job_id=job.job_id,
            epoch=job.epoch,
            seq=0,
            index=index,
            start=start,
            token_ids=tuple(output.token_id for output in used),
            text=piece.text if is_cut else piece.text + reply.finish(),
            logprobs=self._logprobs(used) if job.sampling.logprobs else None,
            finish_reason=finish_reason,
            stop_string=piece.stop_string,
        )

    def _sequence(
        self, job: Job, prepared: Prepared, index: int, matcher: Matcher | None, bad_words: BadWords | None
    ) -> EngineSequence:
        """The engine's view of one choice; what was emitted before goes in as outputs."""
        prompt = prepared.token_ids
        limit = self._max_model_len
        if job.sampling.max_tokens is not None:
            limit = min(limit, len(prompt) + job.sampling.max_tokens)
        seq = EngineSequence(
            request_id=f"{job.job_id}/{job.epoch}/{index}",
            token_ids=[*prompt, *_emitted(job, index).token_ids],
            num_prompt_tokens=len(prompt),
            max_total_tokens=limit,
            media=prepared.media,
            priority=job.priority,
            cache_salt=prepared.cache_salt,
            rope_regime=self._model.rope_regime,
            grid_positions=prepared.grid_positions,
            sampling=self._defaults.resolve(job.sampling, choice_seed(job.sampling.seed, index), bad_words),
            grammar=matcher,
        )
        if not self._backend.fits(seq):
            raise RequestError(
                ErrorCode.CONTEXT_LENGTH_EXCEEDED,
                f"The prompt of {len(prompt)} tokens with up to {limit - len(prompt)} new ones does not fit into this "
                f"server's K/V cache. Please shorten the {prompt_param(job)} or lower max_tokens.",
                prompt_param(job),
            )
        return seq

    def _check_token_ids(self, job: Job) -> None:
        """An id beyond the vocabulary would index past a row of logits, into a neighbour's."""
        size = self._model.vocab_size
        prompt = job.prompt if isinstance(job, CompletionJob) and not isinstance(job.prompt, str) else ()
        for field, token_ids in (
            ("prompt", prompt),
            ("logit_bias", job.sampling.logit_bias),
            ("stop_token_ids", job.sampling.stop_token_ids),
        ):
            for token_id in token_ids:
                if not 0 <= token_id < size:
                    message = f"{field} names token {token_id}; this model's tokens are 0 to {size - 1}."
                    raise RequestError(ErrorCode.INVALID_VALUE, message, field)

    def _logprobs(self, outputs: Sequence[TokenOutput]) -> tuple[TokenLogprob, ...]:
        return tuple(self._logprob(output.token_id, output.logprobs) for output in outputs if output.logprobs)

    def _logprob(self, token_id: int, found: Logprobs) -> TokenLogprob:
        text, raw = self._tokenizer.token_text, self._tokenizer.token_bytes
        top = tuple(TopLogprob(text(i), raw(i), value) for i, value in zip(found.top_ids, found.top, strict=True))
        return TokenLogprob(text(token_id), raw(token_id), found.chosen, top)


def _emitted(job: Job, index: int) -> _Emitted:
    for choice in job.emitted:
        if choice.index == index:
            return _Emitted(choice.token_ids, choice.is_finished)
    return _Emitted()


def _nothing_more(job: Job, index: int, start: int) -> Delta:
    """The end of a choice that may have no further token."""
    return Delta(
        job_id=job.job_id, epoch=job.epoch, seq=0, index=index, start=start, token_ids=(), finish_reason="length"
    )


def _ignore() -> None:
    """What a choice does on its start when nobody waits for it."""
