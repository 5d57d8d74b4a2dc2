"""Requests from within: a line of a batch takes the way of a live request, by an application without a socket."""

import asyncio
import logging
import secrets

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message

from server.errors import error_body, internal_error

RETRIED = frozenset({408, 409, 429})
"""Statuses that OpenAI's clients try again, beside 5xx."""

logger = logging.getLogger(__name__)


class Answer:
    """What came of a request. `body` is JSON."""

    def __init__(self, request_id: str, status: int, headers: Headers, body: bytes) -> None:
        self.request_id = request_id
        self.status = status
        self.body = body
        self._headers = headers

    @property
    def is_put_back(self) -> bool:
        """Whether there was no room for the request: nothing speaks against asking again, any number of times."""
        return self.status in (429, 503)

    @property
    def should_retry(self) -> bool:
        """Whether OpenAI's clients would try again."""
        advice = self._headers.get("x-should-retry")
        return advice == "true" if advice is not None else self.status in RETRIED or self.status >= 500


class InnerClient:
    """Posts JSON to an application's paths."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def post(self, path: str, tenant: str, body: bytes) -> Answer:
        """The whole answer. Cancelled, it ends the request as a client does that leaves."""
        request_id = f"req_{secrets.token_hex(16)}"
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
            "state": {"tenant": tenant},
        }
        request: list[Message] = [{"type": "http.request", "body": body}]
        start: Message = {}
        pieces: list[bytes] = []

        async def receive() -> Message:
            if not request:
                await asyncio.Event().wait()
            return request.pop()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                pieces.append(message.get("body", b""))

        try:
            await self._app(scope, receive, send)
        except Exception:
            logger.exception("%s of a batch failed", request_id)
            return Answer(request_id, 500, Headers(), error_body(internal_error()))
        return Answer(request_id, start["status"], Headers(raw=start["headers"]), b"".join(pieces))
