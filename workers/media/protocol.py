"""What the sandbox and a decode process say to each other: length-prefixed msgpack over a socket pair.

Pixels and file bytes go through shared memory, so a message is small. Either side treats a message that is too long or
does not decode as the end of the other.
"""

import struct
from typing import Any

import msgspec

from workers.media.types import Layout, MediaKind

MAX_MESSAGE_BYTES = 1 << 20
HEADER = struct.Struct(">I")


class DecodeRequest(msgspec.Struct, frozen=True, tag=True):
    """Run the transform of options class `transform` over the first `size_bytes` of the input memory.

    is_base64: they are a file's base64. num_threads: for a clip's decoder; changes no pixel.
    """

    kind: MediaKind
    transform: str
    options: dict[str, Any]
    size_bytes: int
    memory_bytes: int
    cpu_s: int
    is_base64: bool = False
    num_threads: int = 1


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Imported, warm and locked in; `protections` names what could be put in place."""

    protections: list[str]


class Decoded(msgspec.Struct, frozen=True, tag=True):
    """The output memory begins with an array of this shape and dtype (uint8 or float32).

    sha256: of the file that came as base64; else empty.
    """

    shape: tuple[int, ...]
    dtype: str
    layout: Layout
    sha256: bytes = b""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """A MediaError's code and message."""

    code: str
    message: str


Reply = Ready | Decoded | Failed

_encode = msgspec.msgpack.Encoder().encode
_reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
_request_decoder = msgspec.msgpack.Decoder(DecodeRequest)


def pack(message: DecodeRequest | Reply) -> bytes:
    payload = _encode(message)
    return HEADER.pack(len(payload)) + payload


def payload_size(header: bytes) -> int:
    """Raises ValueError where the length is out of bounds."""
    (size,) = HEADER.unpack(header)
    if size > MAX_MESSAGE_BYTES:
        raise ValueError("message too long")
    return int(size)


def unpack_reply(payload: bytes) -> Reply:
    """Raises ValueError (msgspec's errors are ValueErrors) where it is none."""
    return _reply_decoder.decode(payload)


def unpack_request(payload: bytes) -> DecodeRequest:
    return _request_decoder.decode(payload)
