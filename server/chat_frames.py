"""A chat job's events as OpenAI's objects: the parts that a whole answer and a stream have in common, and chunks."""

from collections.abc import Iterable, Iterator

import msgspec
from msgspec import UNSET

from schemas import events
from schemas.errors import GlimpsedError
from schemas.events import Accepted, Delta, Finished
from schemas.jobs import Job
from schemas.openai.answers import (
    ChatCompletionChunk,
    ChoiceLogprobs,
    ChunkChoice,
    ChunkDelta,
    FunctionDelta,
    PromptTokensDetails,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
    Usage,
)
from server.errors import error_body
from server.tools.events import ArgumentsDelta, CallStart, ContentDelta, ToolEvent
from server.tools.ids import call_id
from server.tools.parser import ToolParser, open_parsers

KEEP_ALIVE = b": keep-alive\n\n"
MIN_LOGPROB = -9999.0
"""What stands for minus infinity, which JSON cannot say."""

_encode = msgspec.json.Encoder().encode


def answer_id(job: Job) -> str:
    """The id of an answer; it does not change when the job is taken over."""
    return f"chatcmpl-{job.job_id}"


def usage(accepted: Accepted, completion_tokens: int, cached_tokens: int = 0) -> Usage:
    """The token counts of a request."""
    details = PromptTokensDetails(cached_tokens, accepted.image_tokens, accepted.video_tokens)
    total = accepted.prompt_tokens + completion_tokens
    return Usage(accepted.prompt_tokens, completion_tokens, total, details)


def openai_logprobs(tokens: Iterable[events.TokenLogprob]) -> ChoiceLogprobs:
    """Log probabilities in OpenAI's shape."""
    return ChoiceLogprobs(
        [
            TokenLogprob(
                token=token.token,
                logprob=max(token.logprob, MIN_LOGPROB),
                bytes=list(token.token_bytes),
                top_logprobs=[
                    TopLogprob(one.token, max(one.logprob, MIN_LOGPROB), list(one.token_bytes)) for one in token.top
                ],
            )
            for token in tokens
        ]
    )


def openai_finish_reason(finish_reason: str, num_calls: int) -> str:
    """How OpenAI calls the end of a choice: a stop behind calls is their doing."""
    return "tool_calls" if num_calls and finish_reason == "stop" else finish_reason


class ChunkWriter:
    """The frames of one stream: `data: {chunk}` lines, ready to be sent."""

    def __init__(self, job: Job, *, include_usage: bool, continuous_usage: bool) -> None:
        self._job = job
        self._id = answer_id(job)
        self._include_usage = include_usage
        self._continuous_usage = continuous_usage
        self._accepted = Accepted(job_id=job.job_id, epoch=0, seq=0, prompt_tokens=0)
        self._num_completion_tokens = 0
        self._parsers: list[ToolParser] = []
        self._text_chunks: list[tuple[bytes, bytes]] = []
        self._num_calls = [0] * job.n

    def frames(self, event: events.Event) -> Iterable[bytes]:
        """What a client is told of an event. Failures are not told here."""
        match event:
            case Delta():
                return self._go_on(event)
            case Accepted():
                return self._begin(event)
            case Finished():
                return self._end(event)
        return ()

    def failure(self, error: GlimpsedError) -> bytes:
        """The end of a stream that fails, without [DONE]."""
        return b"data: " + error_body(error) + b"\n\n"

    def keep_alive(self) -> bytes:
        """A comment."""
        return KEEP_ALIVE

    def _begin(self, accepted: Accepted) -> Iterator[bytes]:
        self._accepted = accepted
        self._parsers = open_parsers(accepted.tool_form, self._job)
        for index in range(self._job.n):
            # An answer that may be nothing but calls has no content yet, not even an empty one.
            content = None if accepted.tool_form else ""
            choice = ChunkChoice(index=index, delta=ChunkDelta(role="assistant", content=content))
            prompt_token_ids = accepted.prompt_token_ids if index == 0 and self._job.return_token_ids else None
            yield self._frame((choice,), prompt_token_ids)
        if not (accepted.tool_form or self._continuous_usage or self._job.return_token_ids):
            self._text_chunks = [self._text_chunk(index) for index in range(self._job.n)]

    def _text_chunk(self, index: int) -> tuple[bytes, bytes]:
        """What stands before and behind the text in a choice's chunks that say nothing else. Nearly all chunks are
        such, and five sixths of their cost would be the objects that all of them share."""
        chunk = self._frame((ChunkChoice(index=index, delta=ChunkDelta(content="")),))
        before, _, behind = chunk.rpartition(b'""')
        return before, behind

    def _go_on(self, delta: Delta) -> list[bytes]:
        self._num_completion_tokens += len(delta.token_ids)
        if self._text_chunks and delta.finish_reason is None and delta.logprobs is None:
            before, behind = self._text_chunks[delta.index]
            return [before + _encode(delta.text) + behind] if delta.text else []
        wants_ids = self._job.return_token_ids
        news = self._news(delta)
        if not news and (delta.logprobs or (wants_ids and delta.token_ids)):
            news = [ChunkDelta() if self._accepted.tool_form else ChunkDelta(content="")]
        logprobs = openai_logprobs(delta.logprobs) if delta.logprobs else None
        token_ids = delta.token_ids if wants_ids else UNSET
        frames = []
        for piece in news:
            choice = ChunkChoice(index=delta.index, delta=piece, logprobs=logprobs, token_ids=token_ids)
            frames.append(self._frame((choice,)))
            # What belongs to the tokens goes with the first of the pieces that they brought.
            logprobs, token_ids = None, () if wants_ids else UNSET
        if delta.finish_reason is not None:
            choice = ChunkChoice(
                index=delta.index,
                delta=ChunkDelta(),
                finish_reason=openai_finish_reason(delta.finish_reason, self._num_calls[delta.index]),
                token_ids=() if wants_ids else UNSET,
            )
            frames.append(self._frame((choice,)))
        return frames

    def _news(self, delta: Delta) -> list[ChunkDelta]:
        """What a delta's text says, a piece of content or of one call at a time."""
        parser = self._parsers[delta.index]
        news = parser.push(delta.text)
        if delta.finish_reason is not None:
            news = news + parser.finish()
        return [self._piece(delta.index, event) for event in news]

    def _piece(self, choice: int, event: ToolEvent) -> ChunkDelta:
        match event:
            case ContentDelta(text):
                return ChunkDelta(content=text)
            case CallStart(index, name):
                self._num_calls[choice] += 1
                function = FunctionDelta("", name)
                own_id = call_id(self._job, choice, index)
                return ChunkDelta(
                    tool_calls=(ToolCallDelta(index=index, id=own_id, type="function", function=function),)
                )
            case ArgumentsDelta(index, text):
                return ChunkDelta(tool_calls=(ToolCallDelta(index=index, function=FunctionDelta(text)),))

    def _end(self, finished: Finished) -> Iterator[bytes]:
        if self._include_usage:
            counts = usage(self._accepted, finished.completion_tokens, finished.cached_tokens)
            yield self._frame((), counts=counts)
        yield b"data: [DONE]\n\n"

    def _frame(
        self,
        choices: tuple[ChunkChoice, ...],
        prompt_token_ids: tuple[int, ...] | None = None,
        counts: Usage | None = None,
    ) -> bytes:
        if self._continuous_usage and counts is None:
            counts = usage(self._accepted, self._num_completion_tokens)
        chunk = ChatCompletionChunk(
            id=self._id,
            created=self._job.created,
            model=self._job.model,
            choices=choices,
            usage=counts if self._include_usage or self._continuous_usage else UNSET,
            prompt_token_ids=UNSET if prompt_token_ids is None else prompt_token_ids,
        )
        return b"data: " + _encode(chunk) + b"\n\n"
