"""Messages to bytes and back: one version byte, then msgpack of a tagged struct, or of several. Never pickle.

Both ends share only this module and the message types; how bytes travel is the transport's business. A job's long texts
(megabytes of base64) can go as frames of their own behind its message, which are neither copied nor looked at here.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from schemas.control import Cancel, Claim, Drain, Goodbye, Heartbeat, Hello, Taken
from schemas.data_url import Buffer, LongText
from schemas.events import Accepted, Delta, Failed, Finished
from schemas.jobs import ChatJob, CompletionJob

VERSION = 2
MAX_MESSAGE_BYTES = 256 * 1024 * 1024
MAX_BATCH_BYTES = 1024 * 1024
"""Of several messages in one frame: far below what a frame may have, however many there are."""
HEARTBEAT_S = 0.5
LEASE_S = 2.5
"""A worker that says nothing for this long is taken for lost, also when its process still exists."""

ToGateway = Hello | Claim | Taken | Heartbeat | Goodbye | Accepted | Delta | Finished | Failed
ToWorker = ChatJob | CompletionJob | Cancel | Drain


class WireError(Exception):
    """Bytes that are not a message of ours: wrong version, malformed or of an unknown kind."""


def _inline(text: Any) -> Buffer:
    assert isinstance(text, LongText)
    return text.data


def _from_inline(kind: type, value: Any) -> Any:
    """Any other value than bytes is malformed: a number stands for a frame, and there is none."""
    if kind is not LongText or not isinstance(value, bytes):
        raise ValueError("a text is missing")
    return LongText(value)


_encoder = msgspec.msgpack.Encoder(enc_hook=_inline)
_to_gateway = msgspec.msgpack.Decoder(ToGateway)
_batch_to_gateway = msgspec.msgpack.Decoder(list[ToGateway])
_to_worker = msgspec.msgpack.Decoder(ToWorker, dec_hook=_from_inline)


def encode(message: ToGateway | ToWorker) -> bytes:
    """The bytes of a message."""
    return bytes((VERSION,)) + _encoder.encode(message)


def encode_frames(message: ToWorker) -> list[Buffer]:
    """A message, and behind it its long texts, each a frame of its own, not copied."""
    texts: list[Buffer] = []

    def number(text: Any) -> int:
        texts.append(_inline(text))
        return len(texts)

    data = bytearray((VERSION,))
    # Not copied for the version byte in front of it: texts that are strings may be megabytes as well.
    msgspec.msgpack.Encoder(enc_hook=number).encode_into(message, data, 1)
    return [data, *texts]


def encode_batch(messages: Sequence[ToGateway]) -> list[bytes]:
    """Messages as few frames: an engine's step brings one for each of its requests, and a frame costs a socket more
    than a message costs otherwise."""
    frame = bytes((VERSION,)) + _encoder.encode(messages)
    if len(frame) <= MAX_BATCH_BYTES or len(messages) == 1:
        return [frame]
    half = len(messages) // 2
    return encode_batch(messages[:half]) + encode_batch(messages[half:])


def decode_batch(frame: bytes) -> list[ToGateway]:
    """A worker's messages. Raises WireError on anything else."""
    messages: list[ToGateway] = _decode(_batch_to_gateway, frame)
    return messages


def decode_for_gateway(data: bytes) -> ToGateway:
    """A worker's message. Raises WireError on anything else."""
    message: ToGateway = _decode(_to_gateway, data)
    return message


def decode_for_worker(data: Buffer) -> ToWorker:
    """A gateway's message. Raises WireError on anything else."""
    message: ToWorker = _decode(_to_worker, data)
    return message


def decode_frames(frames: Sequence[Buffer]) -> ToWorker:
    """A gateway's message and its long texts, which keep their frames. Raises WireError on anything else."""

    def numbered(kind: type, number: Any) -> Any:
        if kind is not LongText or not isinstance(number, int) or not 0 < number < len(frames):
            raise ValueError("a text is missing")
        return LongText(frames[number])

    _check_size(sum(map(len, frames)))
    decoder = _to_worker if len(frames) == 1 else msgspec.msgpack.Decoder(ToWorker, dec_hook=numbered)
    message: ToWorker = _decode(decoder, frames[0])
    return message


def _decode(decoder: msgspec.msgpack.Decoder[Any], data: Buffer) -> Any:
    _check_size(len(data))
    if not data or data[0] != VERSION:
        raise WireError("not a message of this version")
    try:
        return decoder.decode(memoryview(data)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"malformed message: {error}") from error


def _check_size(size_bytes: int) -> None:
    if size_bytes > MAX_MESSAGE_BYTES:
        raise WireError(f"message of {size_bytes} bytes is over the limit")
