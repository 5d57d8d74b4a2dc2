"""A request's body as plain Python values: bounded in bytes, time, depth and number of values, and strictly JSON.

Of duplicate keys the last one wins. NaN, numbers out of range, a byte-order mark, bad UTF-8 and lone surrogates are
not JSON here. Nothing of the body is repeated in an error.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request

from schemas.errors import ErrorCode, GlimpsedError, RequestError
from server.long_texts import Places, put_back, without_long_strings

MAX_DEPTH = 64
MAX_VALUES = 100_000
LARGE_BYTES = 256 * 1024
WINDOW_BYTES = 64 * 1024
IDLE_S = 15.0
MIN_BYTES_PER_S = 1024

# Possessive and with an optional end, so that no body, however broken, is scanned twice.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_decoder = msgspec.json.Decoder()


async def read_json(
    request: Request,
    max_bytes: int,
    charge: Callable[[int], None],
    idle_s: float = IDLE_S,
    media: Places | None = None,
) -> Any:
    """The decoded body; `charge` is told of its bytes as they come and may refuse them. `media`: where it has media,
    of which long base64 is then left in the body: a DataUrl instead of a string.

    Raises RequestError (400, 408, 413, 415), or CANCELLED when the client leaves before the end.
    """
    body = await read_body(request, max_bytes, charge, idle_s)
    value = decode_json(body) if media is None else decode_json_with_media(body, media)
    if len(body) > LARGE_BYTES:
        # Megabytes of pictures take milliseconds here, and again when the job is sent: streams get a turn in between.
        await asyncio.sleep(0)
    return value


async def read_body(
    request: Request, max_bytes: int, charge: Callable[[int], None], idle_s: float = IDLE_S
) -> bytearray:
    """The bytes of a body that says that it is JSON. Raises as read_json does."""
    _check_headers(request, max_bytes)
    return await _read(request, max_bytes, charge, idle_s)


def decode_json(body: bytes | bytearray) -> Any:
    """Strict JSON within MAX_DEPTH and MAX_VALUES. Raises RequestError."""
    if _has_too_many_values(body):
        raise _invalid(f"it has more than {MAX_VALUES} values")
    try:
        value = _decoder.decode(body)
    except RecursionError:
        raise _invalid(f"it is nested deeper than {MAX_DEPTH}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        raise _invalid("it is not valid JSON") from None
    if _is_deeper(value, MAX_DEPTH):
        raise _invalid(f"it is nested deeper than {MAX_DEPTH}")
    return value


def decode_json_with_media(body: bytearray, media: Places) -> Any:
    """As `decode_json`, with the long base64 of media left in the body."""
    skeleton = without_long_strings(body)
    if skeleton.texts:
        value = decode_json(skeleton.data)
        if put_back(value, skeleton.texts, media):
            return value
    return decode_json(body)


def _check_headers(request: Request, max_bytes: int) -> None:
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RequestError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "Request bodies cannot be compressed.")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError(ErrorCode.INVALID_REQUEST, "The content type should be 'application/json'.")
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()) or int(length[:20]) > max_bytes:
        raise _too_large(max_bytes)


async def paced_chunks(request: Request, idle_s: float) -> AsyncIterator[bytes]:
    """The pieces of a body as they come: neither a pause of `idle_s` nor a trickle may hold the connection.

    Raises RequestError (408), or CANCELLED when the client leaves before the end.
    """
    clock = asyncio.get_running_loop().time
    start_s = clock()
    size_bytes = 0
    chunks = request.stream()
    try:
        while True:
            latest_s = start_s + idle_s + size_bytes / MIN_BYTES_PER_S
            async with asyncio.timeout_at(min(clock() + idle_s, latest_s)):
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            size_bytes += len(chunk)
            yield chunk
    except TimeoutError:
        raise RequestError(ErrorCode.REQUEST_TIMEOUT, "The body did not arrive in time.") from None
    except ClientDisconnect:
        raise GlimpsedError(ErrorCode.CANCELLED, "The client left before the end of its body.") from None


async def _read(request: Request, max_bytes: int, charge: Callable[[int], None], idle_s: float) -> bytearray:
    body = bytearray()
    async for chunk in paced_chunks(request, idle_s):
        if len(body) + len(chunk) > max_bytes:
            raise _too_large(max_bytes)
        charge(len(chunk))
        body += chunk
    return body


def _has_too_many_values(body: bytes | bytearray) -> bool:
    if _num_separators(body) <= MAX_VALUES:
        return False
    # Only now is it worth telling separators from text. A value is at most one string and has at most one as its key.
    structure, num_strings = _STRING.subn(b"", body, count=2 * MAX_VALUES + 1)
    return num_strings > 2 * MAX_VALUES or _num_separators(structure) > MAX_VALUES


def _num_separators(body: bytes | bytearray) -> int:
    """At least the number of values in the body, less one.

    Looked for before they are counted: base64 has none, and to find none takes a fifth of the time of counting it.
    """
    windows = range(0, len(body), WINDOW_BYTES)
    return sum(
        body.count(mark, start, start + WINDOW_BYTES)
        for start in windows
        for mark in (b",", b"[", b"{")
        if body.find(mark, start, start + WINDOW_BYTES) >= 0
    )


def _is_deeper(value: Any, max_depth: int) -> bool:
    containers = [value] if isinstance(value, dict | list) else []
    for _ in range(max_depth):
        if not containers:
            return False
        children = (node.values() if isinstance(node, dict) else node for node in containers)
        containers = [child for group in children for child in group if isinstance(child, dict | list)]
    return bool(containers)


def _invalid(reason: str) -> RequestError:
    return RequestError(ErrorCode.INVALID_JSON, f"The body could not be read: {reason}.")


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(ErrorCode.REQUEST_TOO_LARGE, f"The body should have at most {max_bytes} bytes.")
