"""A chat job's events as one ChatCompletion."""

from msgspec import UNSET

from schemas import events
from schemas.events import Accepted, Delta, Finished
from schemas.jobs import Job
from schemas.openai.answers import AssistantMessage, ChatCompletion, Choice
from server.chat_frames import answer_id, openai_logprobs, unix_time_s, usage
from server.job_stream import JobStream


class GrowingChoice:
    """One choice until it is finished."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.token_ids: list[int] = []
        self.logprobs: list[events.TokenLogprob] = []
        self.finish_reason = ""

    def add(self, delta: Delta) -> None:
        self.pieces.append(delta.text)
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs or ())
        self.finish_reason = delta.finish_reason or ""


async def collect(stream: JobStream) -> ChatCompletion:
    """Wait for the whole answer. Raises the error with which the job ends."""
    job = stream.job
    created = unix_time_s()
    accepted = Accepted(job_id=job.job_id, epoch=0, seq=0, prompt_tokens=0)
    choices = [GrowingChoice() for _ in range(job.n)]
    while True:
        for event in await stream.take():
            match event:
                case Accepted():
                    accepted = event
                case Delta():
                    choices[event.index].add(event)
                case Finished():
                    return _completion(job, created, accepted, choices, event)


def _completion(
    job: Job, created: int, accepted: Accepted, choices: list[GrowingChoice], finished: Finished
) -> ChatCompletion:
    prompt_token_ids = accepted.prompt_token_ids if job.return_token_ids else None
    return ChatCompletion(
        id=answer_id(job),
        created=created,
        model=job.model,
        choices=[
            Choice(
                index=index,
                message=AssistantMessage(content="".join(choice.pieces)),
                finish_reason=choice.finish_reason,
                logprobs=openai_logprobs(choice.logprobs) if job.sampling.logprobs else None,
                token_ids=choice.token_ids if job.return_token_ids else UNSET,
            )
            for index, choice in enumerate(choices)
        ],
        usage=usage(accepted, finished.completion_tokens, finished.cached_tokens),
        prompt_token_ids=UNSET if prompt_token_ids is None else prompt_token_ids,
    )
