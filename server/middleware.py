"""Around every request: its id, its time, its count, its log line, and the answer when nothing else answered."""

import logging
import re
import secrets
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.errors import ErrorCode, GlimpsedError, RequestError
from server.auth import OPEN_PATHS
from server.errors import error_response, internal_error, is_anthropic
from server.metrics import HttpMetrics

MAX_URL_BYTES = 8192
MAX_HEADERS = 100
MAX_HEADER_BYTES = 64 * 1024
_CLIENT_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")

logger = logging.getLogger(__name__)


class RequestMiddleware:
    """The outermost layer. A request's id is made here and never taken from the client, whose own is a mere label."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics, clock: Callable[[], float]) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:
            with self._metrics.in_flight.track_inprogress():
                await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        start_s = self._clock()
        request_id = new_request_id()
        client_id = _client_id(Headers(scope=scope))
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                if is_anthropic(scope["path"]):
                    headers["request-id"] = request_id
                headers["openai-processing-ms"] = str(round((self._clock() - start_s) * 1000))
                if client_id is not None:
                    headers["x-client-request-id"] = client_id
            await send(message)

        try:
            refusal = _refusal(scope)
            if refusal is not None:
                await error_response(refusal)(scope, receive, send_with_headers)
            else:
                await self._app(scope, receive, send_with_headers)
        except Exception:
            logger.exception("%s failed", request_id)
            if status == 0:
                await error_response(internal_error())(scope, receive, send_with_headers)
        finally:
            self._metrics.requests.labels(_route(scope), str(status or 499)).inc()
            if "failure" in scope.get("state", {}):
                self._metrics.errors.labels(scope["state"]["failure"]).inc()
            # Probes and floods of wrong keys would drown the log.
            level = logging.DEBUG if scope["path"] in OPEN_PATHS or status == 401 else logging.INFO
            key_name = scope.get("state", {}).get("key_name")
            logger.log(
                level,
                "%s %s %s %d %.0f ms%s",
                request_id,
                scope["method"],
                ascii(scope["path"][:256]),
                status or 499,
                (self._clock() - start_s) * 1000,
                f" {key_name}" if key_name else "",
            )


def new_request_id() -> str:
    """Names one request in answers and logs."""
    return f"req_{secrets.token_hex(16)}"


def _refusal(scope: Scope) -> GlimpsedError | None:
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_URL_BYTES:
        return RequestError(ErrorCode.URI_TOO_LONG, f"The URL should have at most {MAX_URL_BYTES} bytes.")
    size_bytes = sum(len(name) + len(value) for name, value in scope["headers"])
    if len(scope["headers"]) > MAX_HEADERS or size_bytes > MAX_HEADER_BYTES:
        return RequestError(ErrorCode.HEADERS_TOO_LARGE, "The request's headers are too large.")
    return None


def _client_id(headers: Headers) -> str | None:
    label = headers.get("x-client-request-id") or headers.get("x-request-id") or ""
    return label if _CLIENT_ID.fullmatch(label) else None


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", "unmatched")
