"""uvicorn's HTTP protocol with what it leaves out: how long a request's head may take and how large it may be, how long
a client may neither read nor finish, how many connections there may be.

A request's body is not this file's: whoever reads it bounds it (see json_body); what nobody reads is thrown away, for a
short time. Refusals that come before there is a request have the form of all others.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import httptools
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from schemas.errors import ErrorCode, GlimpsedError, RequestError, Unavailable
from server.auth import OPEN_PATHS
from server.errors import error_response
from server.http_crowd import Crowd
from server.http_transport import GentleTransport
from server.middleware import MAX_HEADER_BYTES, MAX_HEADERS, MAX_URL_BYTES, new_request_id

MAX_HEAD_BYTES = MAX_URL_BYTES + MAX_HEADER_BYTES + 4096
MAX_PIPELINED = 64


@dataclass(frozen=True, slots=True)
class HttpPatience:
    """head_s: until a request's head is there, counted from the connection or from its first byte. stall_s: how long a
    client may read next to nothing. linger_s: how long what nobody wants is still taken from a client, so that it can
    read the answer."""

    head_s: float = 10.0
    stall_s: float = 30.0
    linger_s: float = 5.0


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        crowd: Crowd,
        patience: HttpPatience,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._crowd = crowd
        self._patience = patience
        self._peer = ""
        self._awaits_head = True
        self._has_begun = False
        self._num_head_bytes = 0
        self._refusal: GlimpsedError | None = None
        self._is_deaf = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._gentle = GentleTransport(transport, self.loop, self._patience.stall_s, self._patience.linger_s)
        super().connection_made(self._gentle)
        self._peer = self.client[0] if self.client is not None else ""
        self._crowd.enter(self._peer)
        if self._crowd.is_overfull(self._peer):
            transport.abort()
        elif self._crowd.is_full(self._peer):
            self.app = _refuse_all_but_probes(self.app)
        self._arm_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.leave(self._peer)
        self._disarm_head_timer()
        self._disarm_linger_timer()
        self._gentle.lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._unset_keepalive_if_required()
        if self._awaits_head:
            self._num_head_bytes += len(data)
            self._arm_head_timer()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Another protocol is not had here: the request is answered as if it had not asked, and is the last.
            self._stop_listening()
        except httptools.HttpParserError:
            self._refuse(self._refusal or _not_http())
        else:
            if self._awaits_head and self._num_head_bytes > MAX_HEAD_BYTES:
                self._refuse(_headers_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._has_begun = True
        self._arm_head_timer()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            message = f"The URL should have at most {MAX_URL_BYTES} bytes."
            self._stop_parsing(RequestError(ErrorCode.URI_TOO_LONG, message))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self._stop_parsing(_headers_too_large())

    def on_headers_complete(self) -> None:
        self._awaits_head = False
        self._disarm_head_timer()
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            self._stop_parsing(_not_http())
        num_hosts = sum(name == b"host" for name, _ in self.headers)
        if num_hosts > 1 or (num_hosts == 0 and self.parser.get_http_version() == "1.1"):
            self._stop_parsing(RequestError(ErrorCode.INVALID_REQUEST, "There should be one 'Host' header."))
        if len(self.pipeline) >= MAX_PIPELINED:
            self._stop_parsing(RequestError(ErrorCode.INVALID_REQUEST, "Too many requests at once on a connection."))
        super().on_headers_complete()
        self._gentle.has_unread_body = True

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._awaits_head, self._has_begun, self._num_head_bytes = True, False, 0
        self._disarm_linger_timer()
        if self._gentle.is_closing():
            self._is_deaf = True
        elif self.cycle.response_complete:
            self._arm_head_timer()  # The answer came before the end of the body; what now?
        self._gentle.body_is_over()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._gentle.has_unread_body and self.cycle.response_complete and not self._gentle.is_closing():
            # The answer did not need the body. The connection goes on if its end comes soon.
            self._linger_timer = self.loop.call_later(self._patience.linger_s, self._gentle.close)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._gentle.watch_writes()

    def _arm_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._patience.head_s, self._on_late_head)

    def _disarm_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _disarm_linger_timer(self) -> None:
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None

    def _on_late_head(self) -> None:
        self._head_timer = None
        if self._is_answering():
            self._arm_head_timer()  # The head of the next request, sent ahead: that can wait.
        elif self._has_begun:
            self._refuse(RequestError(ErrorCode.REQUEST_TIMEOUT, "The head of the request did not arrive in time."))
        else:
            self._gentle.close()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _stop_parsing(self, refusal: GlimpsedError) -> None:
        """Called by the parser: its `feed_data` ends with HttpParserError."""
        self._refusal = refusal
        raise ValueError(refusal.message)

    def _stop_listening(self) -> None:
        """Hear nothing more; what was asked before is answered, and then the connection closed."""
        self._is_deaf = True
        self._gentle.has_unread_body = True
        self._disarm_head_timer()
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def _refuse(self, error: GlimpsedError) -> None:
        """Answer what is no request and close; requests before it are answered first, without this answer."""
        self._stop_listening()
        if self._is_answering():
            if self._awaits_head or self._refusal is not None:
                return
            # It is the body of the running request that is broken: there will be no more of it.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started or self.pipeline:
                self._gentle.close()
                return
        response = error_response(error, {"connection": "close", "x-request-id": new_request_id()})
        lines = [STATUS_LINE[response.status_code]]
        for name, value in [*self.server_state.default_headers, *response.raw_headers]:
            lines += [name, b": ", value, b"\r\n"]
        self._gentle.write(b"".join([*lines, b"\r\n", bytes(response.body)]))
        self._gentle.close()


def _not_http() -> RequestError:
    return RequestError(ErrorCode.INVALID_REQUEST, "This is not a request of HTTP/1.1.")


def _headers_too_large() -> RequestError:
    return RequestError(ErrorCode.HEADERS_TOO_LARGE, "The request's headers are too large.")


def _refuse_all_but_probes(app: ASGIApp) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in OPEN_PATHS:
            await app(scope, receive, send)
            return
        error = Unavailable("Too many connections are open; try again later.")
        headers = {"connection": "close", "x-request-id": new_request_id()}
        await error_response(error, headers)(scope, receive, send)

    return answer
