"""A job's events as Anthropic's stream events; the one writer, of streams and of whole answers.

Order: message_start; for each block its start, deltas and stop, and a ping after the first start; message_delta with
the reason of the end and the counts; message_stop.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from schemas import events
from schemas.anthropic.answers import Block, Message, Text, ToolUse, Usage
from schemas.errors import GlimpsedError
from schemas.events import Accepted, Delta, Finished
from schemas.jobs import ChatJob
from server.errors import anthropic_error_body
from server.tools.events import ArgumentsDelta, CallStart, ContentDelta, ToolEvent
from server.tools.ids import call_id
from server.tools.parser import PlainText, ToolParser, open_parser

PING = b'event: ping\ndata: {"type": "ping"}\n\n'

_encode = msgspec.json.Encoder().encode


class MessageWriter:
    """Tells of one message, which is whole once a Finished was written."""

    def __init__(self, job: ChatJob) -> None:
        self.message = Message(id=f"msg_{job.job_id}", model=job.model, usage=Usage(0, 0))
        self._job = job
        self._prompt_tokens = 0
        self._parser: ToolParser = PlainText()
        self._content: list[Block] = []
        self._growing: Block | None = None
        self._pieces: list[str] = []
        self._finish_reason = ""
        self._stop_string: str | None = None

    def frames(self, event: events.Event) -> Iterator[bytes]:
        """What a client is told of an event. Failures are not told here."""
        match event:
            case Accepted():
                self._prompt_tokens = event.prompt_tokens
                self._parser = open_parser(event.tool_form, self._job.tools, self._job.tool_choice)
                start = msgspec.structs.replace(self.message, usage=Usage(event.prompt_tokens, 0))
                yield _frame("message_start", message=start)
            case Delta():
                said = self._parser.push(event.text)
                if event.finish_reason is not None:
                    self._finish_reason, self._stop_string = event.finish_reason, event.stop_string
                    said += self._parser.finish()
                for piece in said:
                    yield from self._say(piece)
            case Finished():
                yield from self._end(event)

    def failure(self, error: GlimpsedError) -> bytes:
        """The end of a stream that fails."""
        return b"event: error\ndata: %b\n\n" % anthropic_error_body(error)

    def keep_alive(self) -> bytes:
        """A ping."""
        return PING

    def _say(self, piece: ToolEvent) -> Iterator[bytes]:
        match piece:
            case ContentDelta():
                if not isinstance(self._growing, Text):
                    yield from self._open(Text(""))
                yield self._delta(piece.text, type="text_delta", text=piece.text)
            case CallStart():
                use_id = "toolu_" + call_id(self._job, 0, piece.index).removeprefix("call_")
                yield from self._open(ToolUse(use_id, piece.name, {}))
            case ArgumentsDelta():
                yield self._delta(piece.text, type="input_json_delta", partial_json=piece.text)

    def _open(self, block: Block) -> Iterator[bytes]:
        yield from self._close()
        self._growing = block
        yield _frame("content_block_start", index=len(self._content), content_block=block)
        if not self._content:
            yield PING

    def _delta(self, piece: str, **delta: str) -> bytes:
        self._pieces.append(piece)
        return _frame("content_block_delta", index=len(self._content), delta=delta)

    def _close(self) -> Iterator[bytes]:
        if self._growing is None:
            return
        yield _frame("content_block_stop", index=len(self._content))
        text = "".join(self._pieces)
        match self._growing:
            case Text():
                self._content.append(Text(text))
            case ToolUse() as call:
                self._content.append(msgspec.structs.replace(call, input=_object(text)))
        self._growing, self._pieces = None, []

    def _end(self, finished: Finished) -> Iterator[bytes]:
        yield from self._close()
        counts = Usage(self._prompt_tokens - finished.cached_tokens, finished.completion_tokens, finished.cached_tokens)
        self.message = msgspec.structs.replace(
            self.message,
            content=tuple(self._content),
            stop_reason=self._stop_reason(finished.completion_tokens),
            stop_sequence=self._stop_string,
            usage=counts,
        )
        delta = {"stop_reason": self.message.stop_reason, "stop_sequence": self.message.stop_sequence}
        yield _frame("message_delta", delta=delta, usage=counts)
        yield _frame("message_stop")

    def _stop_reason(self, completion_tokens: int) -> str:
        if self._finish_reason == "length":
            max_tokens = self._job.sampling.max_tokens
            is_asked = max_tokens is not None and completion_tokens >= max_tokens
            return "max_tokens" if is_asked else "model_context_window_exceeded"
        if self._stop_string is not None:
            return "stop_sequence"
        return "tool_use" if any(isinstance(block, ToolUse) for block in self._content) else "end_turn"


def _object(arguments: str) -> dict[str, Any]:
    """Arguments as Anthropic gives them; what is not whole, because the answer was cut, is none."""
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _frame(kind: str, **fields: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode({"type": kind, **fields}))
