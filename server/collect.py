"""A chat job's events as one ChatCompletion."""

from msgspec import UNSET

from schemas import events
from schemas.events import Accepted, Delta, Finished
from schemas.jobs import Job
from schemas.openai.answers import AssistantMessage, CalledFunction, ChatCompletion, Choice, ToolCall
from server.chat_frames import answer_id, openai_finish_reason, openai_logprobs, usage
from server.job_stream import JobStream
from server.prompt_logprobs import prompt_logprobs
from server.tools.events import ArgumentsDelta, CallStart, ContentDelta
from server.tools.ids import call_id
from server.tools.parser import PlainText, ToolParser, open_parsers


class GrowingChoice:
    """One choice until it is finished."""

    def __init__(self) -> None:
        self.parser: ToolParser = PlainText()
        self.content: list[str] = []
        self.calls: list[tuple[str, list[str]]] = []
        """Names and arguments."""
        self.token_ids: list[int] = []
        self.logprobs: list[events.TokenLogprob] = []
        self.finish_reason = ""

    def add(self, delta: Delta) -> None:
        events = self.parser.push(delta.text) + (self.parser.finish() if delta.finish_reason is not None else [])
        for event in events:
            match event:
                case ContentDelta(text):
                    self.content.append(text)
                case CallStart(_, name):
                    self.calls.append((name, []))
                case ArgumentsDelta(index, text):
                    self.calls[index][1].append(text)
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs or ())
        self.finish_reason = delta.finish_reason or ""


async def collect(stream: JobStream) -> ChatCompletion:
    """Wait for the whole answer. Raises the error with which the job ends."""
    job = stream.job
    accepted = Accepted(job_id=job.job_id, epoch=0, seq=0, prompt_tokens=0)
    choices = [GrowingChoice() for _ in range(job.n)]
    while True:
        for event in await stream.take():
            match event:
                case Accepted():
                    accepted = event
                    for choice, parser in zip(choices, open_parsers(event.tool_form, job), strict=True):
                        choice.parser = parser
                case Delta():
                    choices[event.index].add(event)
                case Finished():
                    return _completion(job, accepted, choices, event)


def _completion(job: Job, accepted: Accepted, choices: list[GrowingChoice], finished: Finished) -> ChatCompletion:
    prompt_token_ids = accepted.prompt_token_ids if job.return_token_ids else None
    scored = prompt_logprobs(job, accepted)
    return ChatCompletion(
        id=answer_id(job),
        created=job.created,
        model=job.model,
        choices=[
            Choice(
                index=index,
                message=_message(job, index, choice),
                finish_reason=openai_finish_reason(choice.finish_reason, len(choice.calls)),
                logprobs=openai_logprobs(choice.logprobs) if job.sampling.logprobs else None,
                token_ids=choice.token_ids if job.return_token_ids else UNSET,
            )
            for index, choice in enumerate(choices)
        ],
        usage=usage(accepted, finished.completion_tokens, finished.cached_tokens),
        prompt_token_ids=UNSET if prompt_token_ids is None else prompt_token_ids,
        prompt_logprobs=UNSET if scored is None else scored,
    )


def _message(job: Job, index: int, choice: GrowingChoice) -> AssistantMessage:
    content = "".join(choice.content)
    if not choice.calls:
        return AssistantMessage(content=content)
    calls = [
        ToolCall(id=call_id(job, index, place), function=CalledFunction(name, "".join(arguments)))
        for place, (name, arguments) in enumerate(choice.calls)
    ]
    return AssistantMessage(content=content or None, tool_calls=calls)
