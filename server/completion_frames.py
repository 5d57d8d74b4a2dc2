"""The events of a completion request's jobs as OpenAI's objects, whole or in chunks.

Choices are numbered over all prompts: those of the first prompt, then those of the second.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec import UNSET, UnsetType

from schemas.events import Accepted, Delta, Finished, TokenLogprob
from schemas.jobs import CompletionJob
from schemas.openai.answers import Completion, CompletionChoice, CompletionLogprobs, PromptTokensDetails, Usage
from server.chat_frames import MIN_LOGPROB
from server.merge import Tagged
from server.prompt_logprobs import echoed_logprobs, prompt_logprobs

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


class CompletionWriter:
    """Turns events into choices and keeps the counts of the request. The first choice of an echo has the prompt."""

    def __init__(
        self, jobs: Sequence[CompletionJob], *, include_usage: bool = False, continuous_usage: bool = False
    ) -> None:
        self._jobs = jobs
        self._id = f"cmpl-{jobs[0].job_id}"
        self._include_usage = include_usage
        self._continuous_usage = continuous_usage
        self._accepted: dict[int, Accepted] = {}
        self._num_generated = 0
        self._num_cached = 0
        self._offsets: dict[int, int] = {}
        self._text_chunks: dict[int, tuple[bytes, bytes]] = {}

    def choices(self, tagged: Iterable[Tagged]) -> Iterator[CompletionChoice]:
        """What the events add to the texts."""
        for at, event in tagged:
            job = self._jobs[at]
            match event:
                case Accepted():
                    self._accepted[at] = event
                    yield from self._openings(at, job, event)
                case Delta():
                    self._num_generated += len(event.token_ids)
                    yield self._step(at * job.n + event.index, job, event)
                case Finished():
                    self._num_cached += event.cached_tokens

    def frames(self, tagged: Iterable[Tagged]) -> Iterator[bytes]:
        """What a stream carries of the events."""
        for at, event in tagged:
            if isinstance(event, Delta) and self._is_only_text(self._jobs[at], event):
                self._num_generated += len(event.token_ids)
                before, behind = self._text_chunk(at * self._jobs[at].n + event.index)
                yield before + _encode(event.text) + behind
            else:
                for choice in filter(_says_something, self.choices([(at, event)])):
                    yield self._frame([choice], self._usage() if self._continuous_usage else None)

    def last_frames(self) -> Iterator[bytes]:
        """The end of a stream."""
        if self._include_usage:
            yield self._frame([], self._usage())
        yield DONE

    def whole(self, choices: Iterable[CompletionChoice]) -> Completion:
        """The answer that these pieces make."""
        pieces: dict[int, list[CompletionChoice]] = {}
        for choice in choices:
            pieces.setdefault(choice.index, []).append(choice)
        # Where there is one prompt only, its ids also stand where a chat has them.
        ids = self._accepted[0].prompt_token_ids if len(self._jobs) == 1 else None
        return Completion(
            id=self._id,
            created=self._jobs[0].created,
            model=self._jobs[0].model,
            choices=[_joined(pieces[index]) for index in sorted(pieces)],
            usage=self._usage(),
            prompt_token_ids=UNSET if ids is None else ids,
        )

    def _openings(self, at: int, job: CompletionJob, accepted: Accepted) -> Iterator[CompletionChoice]:
        """What the choices of a prompt have before their first token."""
        ids, scored, echoed = accepted.prompt_token_ids, prompt_logprobs(job, accepted), echoed_logprobs(job, accepted)
        if accepted.prompt_text is None and ids is None and scored is None:
            return
        for index in range(at * job.n, (at + 1) * job.n):
            self._offsets[index] = sum(map(len, echoed.tokens)) if echoed else 0
            yield CompletionChoice(
                index=index,
                text=accepted.prompt_text or "",
                logprobs=echoed,
                prompt_token_ids=UNSET if ids is None else ids,
                token_ids=UNSET if ids is None else [],
                prompt_logprobs=UNSET if scored is None else scored,
            )

    def _is_only_text(self, job: CompletionJob, delta: Delta) -> bool:
        """Whether the chunk of a delta says nothing else."""
        is_plain = delta.finish_reason is None and delta.logprobs is None and bool(delta.text)
        return is_plain and not (self._continuous_usage or job.return_token_ids)

    def _text_chunk(self, index: int) -> tuple[bytes, bytes]:
        """What stands before and behind the text in a choice's chunks that say nothing else."""
        if index not in self._text_chunks:
            before, _, behind = self._frame([CompletionChoice(index=index, text="")], None).rpartition(b'""')
            self._text_chunks[index] = before, behind
        return self._text_chunks[index]

    def _step(self, index: int, job: CompletionJob, delta: Delta) -> CompletionChoice:
        return CompletionChoice(
            index=index,
            text=delta.text,
            logprobs=self._logprobs(index, delta.logprobs) if delta.logprobs else None,
            finish_reason=delta.finish_reason,
            token_ids=list(delta.token_ids) if job.return_token_ids else UNSET,
        )

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> CompletionLogprobs:
        offsets = []
        for token in tokens:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(token.token)
        return CompletionLogprobs(
            tokens=[token.token for token in tokens],
            token_logprobs=[max(token.logprob, MIN_LOGPROB) for token in tokens],
            top_logprobs=[_alternatives(token) for token in tokens],
            text_offset=offsets,
        )

    def _usage(self) -> Usage:
        prompts = self._accepted.values()
        num_prompt = sum(one.prompt_tokens for one in prompts)
        return Usage(
            num_prompt, self._num_generated, num_prompt + self._num_generated, PromptTokensDetails(self._num_cached)
        )

    def _frame(self, choices: list[CompletionChoice], counts: Usage | None) -> bytes:
        shows_usage = self._include_usage or self._continuous_usage
        chunk = Completion(
            id=self._id,
            created=self._jobs[0].created,
            model=self._jobs[0].model,
            choices=choices,
            usage=counts if shows_usage else UNSET,
        )
        return b"data: " + _encode(chunk) + b"\n\n"


def _says_something(choice: CompletionChoice) -> bool:
    return bool(choice.text or choice.finish_reason or choice.logprobs or choice.token_ids or choice.prompt_token_ids)


def _alternatives(token: TokenLogprob) -> dict[str, float]:
    """The likeliest tokens, and the chosen one even where it is not among them. Of two that read the same, the
    likelier one stands."""
    found = {one.token: max(one.logprob, MIN_LOGPROB) for one in reversed(token.top)}
    return {token.token: max(token.logprob, MIN_LOGPROB)} | found


def _joined(pieces: Sequence[CompletionChoice]) -> CompletionChoice:
    logprobs = [piece.logprobs for piece in pieces if piece.logprobs]
    token_ids: list[int] | UnsetType = UNSET
    if not isinstance(pieces[-1].token_ids, UnsetType):
        token_ids = [one for piece in pieces if not isinstance(piece.token_ids, UnsetType) for one in piece.token_ids]
    return CompletionChoice(
        index=pieces[0].index,
        text="".join(piece.text for piece in pieces),
        logprobs=CompletionLogprobs(
            tokens=[one for piece in logprobs for one in piece.tokens],
            token_logprobs=[one for piece in logprobs for one in piece.token_logprobs],
            top_logprobs=[one for piece in logprobs for one in piece.top_logprobs],
            text_offset=[one for piece in logprobs for one in piece.text_offset],
        )
        if logprobs
        else None,
        finish_reason=pieces[-1].finish_reason,
        prompt_token_ids=pieces[0].prompt_token_ids,
        prompt_logprobs=pieces[0].prompt_logprobs,
        token_ids=token_ids,
    )
