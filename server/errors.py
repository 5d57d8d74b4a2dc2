"""Error code -> HTTP status and OpenAI error type, in one table; and the bodies and handlers that use it.

The path decides the form of the body, here and nowhere else: Anthropic's paths answer as Anthropic does. Never 422,
never a traceback: a validation failure is a 400 that names the field, anything unforeseen a plain 500.
"""

import math

import msgspec
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from schemas.errors import ErrorCode, GlimpsedError, Overloaded, RequestError, TooMuch, Unavailable
from schemas.events import Failed

BAD_REQUEST = (400, "invalid_request_error")

ANSWERS: dict[ErrorCode, tuple[int, str]] = {
    ErrorCode.INVALID_API_KEY: (401, "authentication_error"),
    ErrorCode.FORBIDDEN: (403, "permission_error"),
    ErrorCode.MODEL_NOT_FOUND: (404, "invalid_request_error"),
    ErrorCode.NOT_FOUND: (404, "invalid_request_error"),
    ErrorCode.PREVIOUS_RESPONSE_NOT_FOUND: (404, "invalid_request_error"),
    ErrorCode.METHOD_NOT_ALLOWED: (405, "invalid_request_error"),
    ErrorCode.REQUEST_TIMEOUT: (408, "invalid_request_error"),
    ErrorCode.MEDIA_CHANGED: (409, "invalid_request_error"),
    ErrorCode.REQUEST_TOO_LARGE: (413, "invalid_request_error"),
    ErrorCode.URI_TOO_LONG: (414, "invalid_request_error"),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: (415, "invalid_request_error"),
    ErrorCode.RATE_LIMIT_EXCEEDED: (429, "rate_limit_error"),
    ErrorCode.QUEUE_FULL: (429, "rate_limit_error"),
    ErrorCode.HEADERS_TOO_LARGE: (431, "invalid_request_error"),
    ErrorCode.CANCELLED: (499, "server_error"),
    ErrorCode.ENGINE_ERROR: (500, "server_error"),
    ErrorCode.INTERNAL_ERROR: (500, "server_error"),
    ErrorCode.UNAVAILABLE: (503, "server_error"),
    ErrorCode.DEADLINE_EXCEEDED: (504, "server_error"),
}
"""Codes that are missing here are about the request or its media: BAD_REQUEST."""

ANTHROPIC_PATH = "/v1/messages"
ANTHROPIC_ANSWERS: dict[ErrorCode, tuple[int, str]] = {
    ErrorCode.MODEL_NOT_FOUND: (404, "not_found_error"),
    ErrorCode.NOT_FOUND: (404, "not_found_error"),
    ErrorCode.PREVIOUS_RESPONSE_NOT_FOUND: (404, "not_found_error"),
    ErrorCode.REQUEST_TOO_LARGE: (413, "request_too_large"),
    ErrorCode.QUEUE_FULL: (529, "overloaded_error"),
    ErrorCode.CANCELLED: (499, "api_error"),
    ErrorCode.ENGINE_ERROR: (500, "api_error"),
    ErrorCode.INTERNAL_ERROR: (500, "api_error"),
    ErrorCode.UNAVAILABLE: (529, "overloaded_error"),
    ErrorCode.DEADLINE_EXCEEDED: (504, "timeout_error"),
}
"""Where Anthropic's status or type is another than OpenAI's."""

_HTTP_CODES = {
    401: ErrorCode.INVALID_API_KEY,
    403: ErrorCode.FORBIDDEN,
    404: ErrorCode.NOT_FOUND,
    405: ErrorCode.METHOD_NOT_ALLOWED,
    413: ErrorCode.REQUEST_TOO_LARGE,
    415: ErrorCode.UNSUPPORTED_MEDIA_TYPE,
}
_RETRIED_IN_VAIN = {ErrorCode.ENGINE_ERROR, ErrorCode.DEADLINE_EXCEEDED}
"""Server errors that OpenAI's clients would try again by themselves: a request that two workers died of may kill more,
and one whose time was over takes as long again."""
_CLOSING = {ErrorCode.REQUEST_TIMEOUT, ErrorCode.REQUEST_TOO_LARGE}
"""Answers given while the client may still be sending: the connection cannot be used again."""


REASONS = frozenset(map(str, (*(set(ErrorCode) - {ErrorCode.RATE_LIMIT_EXCEEDED}), *TooMuch)))
"""Why requests end with an error, as metrics count it: codes, those of an overload told apart."""


def note_failure(scope: Scope, error: GlimpsedError) -> None:
    """Remember why a request ends with an error, for what counts requests."""
    scope.setdefault("state", {})["failure"] = str(error.what if isinstance(error, Overloaded) else error.code)


def error_body(error: GlimpsedError) -> bytes:
    """OpenAI's error object as JSON."""
    _, kind = ANSWERS.get(error.code, BAD_REQUEST)
    return msgspec.json.encode(
        {"error": {"message": error.message, "type": kind, "param": error.param, "code": str(error.code)}}
    )


def anthropic_error_body(error: GlimpsedError) -> bytes:
    """Anthropic's error object as JSON. It has no place for a field of its own: `message` begins with the param."""
    _, kind = _anthropic_answer(error.code)
    is_named = error.param is None or error.param in error.message
    message = error.message if is_named else f"{error.param}: {error.message}"
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})


def is_anthropic(path: str) -> bool:
    """Whether a path belongs to Anthropic's API."""
    return path == ANTHROPIC_PATH or path.startswith(ANTHROPIC_PATH + "/")


class ErrorResponse(Response):
    """An error in the form of the API that was asked."""

    def __init__(self, error: GlimpsedError, headers: dict[str, str]) -> None:
        status, _ = ANSWERS.get(error.code, BAD_REQUEST)
        super().__init__(error_body(error), status, headers, "application/json")
        self._error = error
        self._extra_headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, on the path of the request."""
        note_failure(scope, self._error)
        if scope["type"] == "http" and is_anthropic(scope["path"]):
            status, _ = _anthropic_answer(self._error.code)
            body = anthropic_error_body(self._error)
            await Response(body, status, self._extra_headers, "application/json")(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def error_response(error: GlimpsedError, headers: dict[str, str] | None = None) -> Response:
    """The whole answer for an error."""
    all_headers = dict(headers or {})
    if isinstance(error, Overloaded | Unavailable):
        all_headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
        all_headers["x-should-retry"] = "true"
    elif error.code in _RETRIED_IN_VAIN:
        all_headers["x-should-retry"] = "false"
    if error.code in _CLOSING:
        all_headers["connection"] = "close"
    return ErrorResponse(error, all_headers)


def internal_error() -> GlimpsedError:
    """What a client learns of a fault that nobody foresaw."""
    return GlimpsedError(ErrorCode.INTERNAL_ERROR, "The server failed on this request; the failure was logged.")


def from_event(event: Failed) -> GlimpsedError:
    """A worker's failure as an error of ours. A code that is not in the tree counts as an engine error."""
    try:
        code = ErrorCode(event.code)
    except ValueError:
        code = ErrorCode.ENGINE_ERROR
    if code is ErrorCode.UNAVAILABLE:
        return Unavailable(event.message)
    if code is ErrorCode.QUEUE_FULL:
        return Overloaded(event.message, retry_after_s=1.0)
    return GlimpsedError(code, event.message, event.param)


def install_handlers(app: FastAPI) -> None:
    """Answer our errors and the framework's own in one form."""
    app.add_exception_handler(GlimpsedError, _answer_ours)
    app.add_exception_handler(HTTPException, _answer_frameworks)


def _anthropic_answer(code: ErrorCode) -> tuple[int, str]:
    return ANTHROPIC_ANSWERS.get(code) or ANSWERS.get(code, BAD_REQUEST)


async def _answer_ours(_: Request, error: Exception) -> Response:
    assert isinstance(error, GlimpsedError)
    return error_response(error)


async def _answer_frameworks(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _HTTP_CODES.get(error.status_code, ErrorCode.INVALID_REQUEST)
    message = {
        ErrorCode.NOT_FOUND: "There is no such path here.",
        ErrorCode.METHOD_NOT_ALLOWED: "This path does not take this method.",
    }.get(code, "The request cannot be served.")
    return error_response(RequestError(code, message), dict(error.headers or {}))
