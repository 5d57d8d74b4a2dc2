"""Numbers of a stream's events, from 0: `id` in server-sent events, and `Last-Event-ID` of a client that comes back.

What belongs to the moment has none: comments, pings, and the error with which a stream ends here, but maybe not for
whoever goes on with it.
"""

import re

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.errors import ErrorCode, RequestError

HEADER = "last-event-id"
_TRANSIENT = (b":", b"event: ping\n", b'data: {"error"', b"event: error\n", b"event: response.failed\n")
_ID = re.compile(rb"id: ([0-9]+)\n")
_NUMBER = re.compile(r"[0-9]{1,15}")


def last_event_id(request: Request) -> int | None:
    """The number of the last event that a client has, None where it does not say. Raises RequestError."""
    text = request.headers.get(HEADER)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        message = f"The header '{HEADER}' should be the 'id' of an event of the stream."
        raise RequestError(ErrorCode.INVALID_VALUE, message, HEADER)
    return int(text)


def is_event_stream(start: Message) -> bool:
    """Whether an answer that begins so has events."""
    kind: bytes = dict(start["headers"]).get(b"content-type", b"")
    return bool(start["status"] == 200) and kind.startswith(b"text/event-stream")


def numbered(piece: bytes) -> bytes:
    """The events that have a number."""
    return b"".join(event for event in _events(piece) if event.startswith(b"id: "))


def with_ids(piece: bytes, next_id: int) -> tuple[bytes, int]:
    """A piece of a stream, of whole events, with their numbers; and the number of the next one."""
    events = []
    for event in _events(piece):
        if event.startswith(_TRANSIENT):
            events.append(event)
        else:
            events.append(b"id: %d\n%b" % (next_id, event))
            next_id += 1
    return b"".join(events), next_id


def after(piece: bytes, last_id: int) -> bytes:
    """A piece without the events up to this one."""
    return b"".join(event for event in _events(piece) if not (at := _ID.match(event)) or int(at[1]) > last_id)


class EventIds:
    """An application whose streams' events are numbered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        next_id = 0
        is_stream = False

        async def send_numbered(message: Message) -> None:
            nonlocal next_id, is_stream
            if message["type"] == "http.response.start":
                is_stream = is_event_stream(message)
            elif is_stream:
                piece, next_id = with_ids(message.get("body", b""), next_id)
                message = {**message, "body": piece}
            await send(message)

        await self._app(scope, receive, send_numbered)


def sending_after(send: Send, last_id: int) -> Send:
    """A `send` for a client that has a stream's events up to this one."""
    is_stream = False

    async def send_rest(message: Message) -> None:
        nonlocal is_stream
        if message["type"] == "http.response.start":
            is_stream = is_event_stream(message)
        elif is_stream:
            message = {**message, "body": after(message["body"], last_id)}
        await send(message)

    return send_rest


def _events(piece: bytes) -> list[bytes]:
    """JSON has no empty line inside."""
    return [event + b"\n\n" for event in piece.split(b"\n\n") if event]
