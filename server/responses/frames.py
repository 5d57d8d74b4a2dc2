"""A job's events as OpenAI's Responses events; the one writer, of streams and of whole answers.

Order: created (and queued, in the background), in_progress; for each item of the output its added, its parts' or
arguments' deltas and their done, its done; then completed, incomplete or failed. Every event has the next sequence
number.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from schemas import events
from schemas.errors import ErrorCode, GlimpsedError
from schemas.events import Accepted, Delta, Finished
from schemas.jobs import ChatJob
from schemas.openai.answers import TokenLogprob
from schemas.openai.response_answers import (
    IncompleteDetails,
    InputTokensDetails,
    OutputItem,
    OutputText,
    OutputTokensDetails,
    Response,
    ResponseError,
    ResponseUsage,
    StreamEvent,
)
from server.chat_frames import KEEP_ALIVE, openai_logprobs
from server.responses.growing import GrowingCall, GrowingMessage
from server.submit import unix_time_s
from server.tools.events import ArgumentsDelta, CallStart, ContentDelta, ToolEvent
from server.tools.ids import call_id
from server.tools.parser import PlainText, ToolParser, open_parser

_encode = msgspec.json.Encoder().encode


class ResponseWriter:
    """Tells of one response. `keep` is given it at its end, unless the client left before.

    response: as it is now; whole once a Finished was written.
    """

    def __init__(self, job: ChatJob, response: Response, keep: Callable[[Response], None]) -> None:
        self.response = response
        self._job = job
        self._keep = keep
        self._sequence_number = 0
        self._accepted = Accepted(job_id=job.job_id, epoch=0, seq=0, prompt_tokens=0)
        self._parser: ToolParser = PlainText()
        self._logprobs: list[TokenLogprob] = []
        self._output: list[OutputItem] = []
        self._growing: GrowingMessage | GrowingCall | None = None
        self._is_cut = False

    def frames(self, event: events.Event) -> Iterator[bytes]:
        """What a client is told of an event. Failures are not told here."""
        match event:
            case Accepted():
                self._accepted = event
                self._parser = open_parser(event.tool_form, self._job.tools, self._job.tool_choice)
                self.response = msgspec.structs.replace(self.response, status="in_progress")
                if not self._sequence_number:
                    yield self._frame("response.created", response=self.response)
                yield self._frame("response.in_progress", response=self.response)
            case Delta():
                yield from self._go_on(event)
            case Finished():
                yield from self._end(event)

    def queued(self) -> Iterator[bytes]:
        """What a client is told of a response of the background before its job has said anything."""
        yield self._frame("response.created", response=self.response)
        yield self._frame("response.queued", response=self.response)

    def cancel(self) -> None:
        """The response ends as it is; there is no event for that."""
        self._end_here("cancelled", None)

    def failure(self, error: GlimpsedError) -> bytes:
        """The end of a stream that fails; what was said stays."""
        self._end_here("failed", ResponseError("server_error", error.message))
        if error.code is not ErrorCode.CANCELLED:
            self._keep(self.response)
        return self._frame("response.failed", response=self.response)

    def _end_here(self, status: str, error: ResponseError | None) -> None:
        if self._growing is not None:
            self._output.append(self._growing.item("incomplete"))
        self.response = msgspec.structs.replace(self.response, status=status, error=error, output=tuple(self._output))

    def keep_alive(self) -> bytes:
        """A comment."""
        return KEEP_ALIVE

    def _go_on(self, delta: Delta) -> Iterator[bytes]:
        if delta.logprobs:
            self._logprobs += openai_logprobs(delta.logprobs).content
        said = self._parser.push(delta.text)
        if delta.finish_reason is not None:
            self._is_cut = delta.finish_reason == "length"
            said += self._parser.finish()
        if not said and self._logprobs and isinstance(self._parser, PlainText):
            said = [ContentDelta("")]
        for piece in said:
            yield from self._say(piece)

    def _say(self, piece: ToolEvent) -> Iterator[bytes]:
        match piece:
            case ContentDelta():
                yield from self._add_text(piece.text)
            case CallStart():
                # What told of the call's beginning told of no text.
                self._logprobs = []
                yield from self._close("completed")
                call = GrowingCall(f"fc_{self._unique()}", call_id(self._job, 0, piece.index), piece.name)
                yield from self._open(call)
            case ArgumentsDelta():
                assert isinstance(self._growing, GrowingCall)
                self._growing.add(piece.text)
                yield self._frame("response.function_call_arguments.delta", **self._place(), delta=piece.text)

    def _add_text(self, text: str) -> Iterator[bytes]:
        if not isinstance(self._growing, GrowingMessage):
            yield from self._close("completed")
            yield from self._open(GrowingMessage(f"msg_{self._unique()}"))
        assert isinstance(self._growing, GrowingMessage)
        logprobs, self._logprobs = self._logprobs, []
        self._growing.add(text, logprobs)
        if text or logprobs:
            yield self._frame("response.output_text.delta", **self._text_place(), delta=text, logprobs=logprobs)

    def _end(self, finished: Finished) -> Iterator[bytes]:
        if self._growing is None:
            yield from self._add_text("")
        status = "incomplete" if self._is_cut else "completed"
        yield from self._close(status)
        self.response = msgspec.structs.replace(
            self.response,
            status=status,
            completed_at=None if self._is_cut else unix_time_s(),
            incomplete_details=IncompleteDetails("max_output_tokens") if self._is_cut else None,
            output=tuple(self._output),
            usage=self._usage(finished),
        )
        self._keep(self.response)
        yield self._frame(f"response.{status}", response=self.response)

    def _open(self, growing: GrowingMessage | GrowingCall) -> Iterator[bytes]:
        self._growing = growing
        yield self._frame("response.output_item.added", output_index=len(self._output), item=growing.begun())
        if isinstance(growing, GrowingMessage):
            yield self._frame("response.content_part.added", **self._text_place(), part=OutputText(text=""))

    def _close(self, status: str) -> Iterator[bytes]:
        growing = self._growing
        if growing is None:
            return
        item = growing.item(status)
        if isinstance(growing, GrowingMessage):
            part = growing.text()
            place = self._text_place()
            yield self._frame("response.output_text.done", **place, text=part.text, logprobs=part.logprobs)
            yield self._frame("response.content_part.done", **place, part=part)
        else:
            arguments = growing.arguments()
            kind = "response.function_call_arguments.done"
            yield self._frame(kind, **self._place(), name=growing.name, arguments=arguments)
        yield self._frame("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._growing = None

    def _unique(self) -> str:
        """What the ids of the next item end in."""
        return f"{self._job.job_id}{len(self._output):02x}"

    def _place(self) -> dict[str, Any]:
        assert self._growing is not None
        return {"item_id": self._growing.id, "output_index": len(self._output)}

    def _text_place(self) -> dict[str, Any]:
        return {**self._place(), "content_index": 0}

    def _usage(self, finished: Finished) -> ResponseUsage:
        accepted = self._accepted
        details = InputTokensDetails(
            cached_tokens=finished.cached_tokens,
            image_tokens=accepted.image_tokens,
            video_tokens=accepted.video_tokens,
        )
        total = accepted.prompt_tokens + finished.completion_tokens
        return ResponseUsage(accepted.prompt_tokens, details, finished.completion_tokens, OutputTokensDetails(), total)

    def _frame(self, kind: str, **fields: Any) -> bytes:
        event = StreamEvent(type=kind, sequence_number=self._sequence_number, **fields)
        self._sequence_number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode(event))
