"""The log probabilities of prompts: as vLLM tells them, and as OpenAI's completions have told them with an echo."""

from itertools import accumulate

from schemas.events import Accepted
from schemas.jobs import Job
from schemas.openai.answers import CompletionLogprobs, PromptLogprob
from server.chat_frames import MIN_LOGPROB


def prompt_logprobs(job: Job, accepted: Accepted) -> list[dict[str, PromptLogprob] | None] | None:
    """For each token of the prompt, by token id: itself and as many of the likeliest as were asked for; None for the
    first, which follows nothing. None where none were asked for."""
    count = job.sampling.prompt_logprobs
    if count is None or accepted.prompt_logprobs is None:
        return None
    return [
        {
            str(one.token_id): PromptLogprob(max(one.logprob, MIN_LOGPROB), one.rank, one.token)
            for one in ranked[: 1 + count]
        }
        or None
        for ranked in accepted.prompt_logprobs
    ]


def echoed_logprobs(job: Job, accepted: Accepted) -> CompletionLogprobs | None:
    """Those of a prompt's tokens that stand before the answer's own, where an echo was asked for with them."""
    tokens, scored = accepted.prompt_token_texts, accepted.prompt_logprobs
    if accepted.prompt_text is None or not job.sampling.logprobs or tokens is None or scored is None:
        return None
    count = job.sampling.top_logprobs
    told = [[(one.token, max(one.logprob, MIN_LOGPROB)) for one in ranked[: 1 + count]] for ranked in scored]
    return CompletionLogprobs(
        tokens=list(tokens),
        token_logprobs=[own[0][1] if own else None for own in told],
        # Of two tokens that read the same the likelier one stands.
        top_logprobs=[dict(own[:1]) | dict(reversed(own[1:])) if own else None for own in told],
        text_offset=list(accumulate(map(len, tokens), initial=0))[:-1],
    )
