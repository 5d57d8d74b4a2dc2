"""What a worker refuses to score, before it computes anything."""

from typing import Any

import pytest

from schemas.errors import RequestError
from schemas.jobs import ChatJob, CompletionJob, Job
from schemas.sampling import SamplingParams
from workers.engine.sequence import Sequence
from workers.handlers.prompt_logprobs import MAX_LOGPROBS, PromptScorer


class Untouched:
    """Neither an engine nor a tokenizer is needed for what is refused."""


def job(**sampling: Any) -> CompletionJob:
    return CompletionJob(job_id="one", model="demo", prompt="x", echo=True, sampling=SamplingParams(seed=0, **sampling))


async def score(asked: Job, num_tokens: int) -> object:
    answer = Sequence("one", [1] * num_tokens, num_tokens, num_tokens + 1)
    return await PromptScorer(Untouched(), Untouched()).score(asked, answer)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "param", "width"),
    [
        (job(prompt_logprobs=20), "prompt_logprobs", 21),
        (job(prompt_logprobs=0), "prompt_logprobs", 1),
        (job(logprobs=True, top_logprobs=5), "logprobs", 6),
        (job(prompt_logprobs=3, logprobs=True, top_logprobs=5), "prompt_logprobs", 6),
    ],
)
async def test_more_log_probabilities_than_fit_one_answer_are_refused(
    asked: CompletionJob, param: str, width: int
) -> None:
    with pytest.raises(RequestError) as caught:
        await score(asked, MAX_LOGPROBS // width + 1)
    assert caught.value.param == param
    with pytest.raises(AttributeError):  # no more than fit: the engine would be asked
        await score(asked, MAX_LOGPROBS // width)


async def test_nothing_is_computed_where_nothing_was_asked_for() -> None:
    chat = ChatJob(job_id="one", model="demo", messages=(), sampling=SamplingParams(seed=0, logprobs=True))
    assert await score(chat, 5) is None
    assert await score(job(), 5) is None
