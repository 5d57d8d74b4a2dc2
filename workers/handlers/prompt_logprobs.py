"""The log probabilities of a job's prompt, where it asks for them."""

import asyncio
from contextlib import aclosing

from schemas.errors import ErrorCode, RequestError
from schemas.events import PromptLogprobs, RankedToken
from schemas.jobs import CompletionJob, Job
from workers.backends.native import NativeBackend
from workers.engine.prompt_logprobs import ScoredToken
from workers.engine.sampling import Sampling
from workers.engine.sequence import Sequence
from workers.tokenizers.base import Tokenizer

MAX_LOGPROBS = 65536
"""Log probabilities that one prompt may have in all. They come in one piece: some megabytes of JSON, and a quarter of a
second at most in which a gateway does nothing else."""


class PromptScorer:
    """Has the engine go over prompts before they are answered; the answers then find them in the prefix cache."""

    def __init__(self, backend: NativeBackend, tokenizer: Tokenizer) -> None:
        self._backend = backend
        self._tokenizer = tokenizer

    async def score(self, job: Job, answer: Sequence) -> PromptLogprobs | None:
        """What a job asks for of the prompt of `answer`, one of its choices before it begins. None where it asks for
        nothing, or another worker that was lost has told its client. Raises RequestError and EngineError."""
        num_top = _num_top(job)
        if num_top is None or job.emitted:
            return None
        prompt = answer.token_ids
        _check_size(job, len(prompt), num_top)
        seq = Sequence(
            request_id=f"{answer.request_id}/prompt",
            token_ids=list(prompt),
            num_prompt_tokens=len(prompt),
            max_total_tokens=len(prompt) + 1,
            media=answer.media,
            priority=answer.priority,
            cache_salt=answer.cache_salt,
            rope_regime=answer.rope_regime,
            grid_positions=answer.grid_positions,
            sampling=Sampling(temperature=0.0),
            num_prompt_logprobs=num_top,
        )
        async with aclosing(self._backend.generate(seq)) as steps:
            async for _ in steps:
                pass
        return await asyncio.to_thread(self._ranked, prompt, seq.prompt_logprobs)

    def _ranked(self, prompt: list[int], scored: dict[int, ScoredToken]) -> PromptLogprobs:
        return ((), *(self._ranked_one(prompt[at], scored[at]) for at in range(1, len(prompt))))

    def _ranked_one(self, token_id: int, found: ScoredToken) -> tuple[RankedToken, ...]:
        text = self._tokenizer.token_text
        top = zip(found.top_ids, found.top, strict=True)
        return (
            RankedToken(token_id, text(token_id), found.logprob, found.rank),
            *(RankedToken(one, text(one), logprob, rank) for rank, (one, logprob) in enumerate(top, start=1)),
        )


def _num_top(job: Job) -> int | None:
    """How many alternatives at each position of the prompt a job needs; None where it needs no log probabilities."""
    asked = [job.sampling.prompt_logprobs]
    if isinstance(job, CompletionJob) and job.echo and job.sampling.logprobs:
        asked.append(job.sampling.top_logprobs)
    return max((count for count in asked if count is not None), default=None)


def _check_size(job: Job, num_tokens: int, num_top: int) -> None:
    if num_tokens * (1 + num_top) > MAX_LOGPROBS:
        param = "logprobs" if job.sampling.prompt_logprobs is None else "prompt_logprobs"
        message = (
            f"Invalid value for '{param}': {num_top} alternatives for each of the prompt's {num_tokens} tokens are too "
            f"much; tokens times (1 + alternatives) may be {MAX_LOGPROBS} at most."
        )
        raise RequestError(ErrorCode.INVALID_VALUE, message, param)
