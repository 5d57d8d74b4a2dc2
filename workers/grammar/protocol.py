"""What a worker and its grammar checker tell each other: msgpack behind its length, over the child's pipes."""

import struct
from typing import BinaryIO

import msgspec

from schemas.sampling import Grammar
from workers.grammar.vocabulary import Vocabulary

HEADER = struct.Struct("<I")
MAX_BYTES = 64 << 20


class Verdict(msgspec.Struct, frozen=True):
    """reason: why the grammar cannot be used; empty where it can. translated: its source for the engine."""

    reason: str = ""
    translated: str = ""


def pack(message: Vocabulary | Grammar | Verdict) -> bytes:
    """One message with its length in front."""
    payload = msgspec.msgpack.encode(message)
    return HEADER.pack(len(payload)) + payload


def read(pipe: BinaryIO) -> bytes | None:
    """The next message's payload; None at the end. Raises ValueError where the other side breaks the protocol."""
    header = pipe.read(HEADER.size)
    if not header:
        return None
    (size,) = HEADER.unpack(header)
    if size > MAX_BYTES:
        raise ValueError(f"a message of {size} bytes")
    return pipe.read(size)
