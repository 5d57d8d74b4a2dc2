"""The time that a client gives its request, from its header."""

import re
from typing import TypeVar

import msgspec
from starlette.requests import Request

from schemas.errors import ErrorCode, RequestError
from schemas.jobs import ChatJob, CompletionJob

HEADER = "x-request-timeout"
OneJob = TypeVar("OneJob", bound=ChatJob | CompletionJob)
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def asked_timeout_s(request: Request) -> float | None:
    """The seconds of `x-request-timeout`, None without it. Raises RequestError for what is not a number above 0."""
    text = request.headers.get(HEADER)
    if text is None:
        return None
    seconds = float(text) if _SECONDS.fullmatch(text.strip()) else 0.0
    if not seconds:
        message = f"The header '{HEADER}' should be a number of seconds above 0."
        raise RequestError(ErrorCode.INVALID_VALUE, message, HEADER)
    return seconds


def within(job: OneJob, timeout_s: float | None) -> OneJob:
    """The job, to be done within what its client asked for; never later than the server allows."""
    if timeout_s is None or timeout_s >= job.timeout_s:
        return job
    return msgspec.structs.replace(job, timeout_s=timeout_s)
