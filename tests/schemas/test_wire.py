"""Messages as bytes: both ways of making them, and what is none."""

import msgspec
import pytest

from schemas.control import Cancel
from schemas.events import Accepted
from schemas.jobs import ChatJob, ImagePart, Message, TextPart
from schemas.sampling import SamplingParams
from schemas.wire import (
    MAX_BATCH_BYTES,
    VERSION,
    ToGateway,
    WireError,
    decode_batch,
    decode_for_worker,
    encode,
    encode_batch,
    encode_large,
)
from tests.fakes.messages import accepted, delta, finished, hello

JOB = ChatJob(
    job_id="a",
    model="tiny",
    messages=(Message("user", (ImagePart("data:image/png;base64," + "QUJD" * 100_000, "p"), TextPart("what?"))),),
    sampling=SamplingParams(seed=0),
)


@pytest.mark.parametrize("message", [JOB, Cancel(job_id="a")])
def test_a_large_message_has_the_same_bytes_and_is_read_from_any_buffer(message: ChatJob | Cancel) -> None:
    data = encode(message)
    assert encode_large(message) == data and data[0] == VERSION
    for buffer in (data, memoryview(data), memoryview(encode_large(message))):
        assert decode_for_worker(buffer) == message


@pytest.mark.parametrize("data", [b"", b"\x00", bytes((VERSION,)), bytes((VERSION + 1,)) + encode(JOB)[1:]])
def test_what_is_no_message_is_one_kind_of_error(data: bytes) -> None:
    for buffer in (data, memoryview(data)):
        with pytest.raises(WireError):
            decode_for_worker(buffer)


def test_a_message_of_another_kind_is_refused() -> None:
    other = bytes((VERSION,)) + msgspec.msgpack.encode({"kind": "none"})
    with pytest.raises(WireError):
        decode_for_worker(other)


def test_what_a_worker_says_at_once_is_one_frame() -> None:
    said: list[ToGateway] = [hello("w"), accepted("a"), delta("a", 0), delta("b", 7), finished("a", seq=2)]
    (frame,) = encode_batch(said)
    assert decode_batch(frame) == said


def test_a_batch_that_is_too_large_is_parted_in_order() -> None:
    echo = Accepted(job_id="a", epoch=0, seq=0, prompt_tokens=1, prompt_text="x" * (MAX_BATCH_BYTES // 3))
    too_large = msgspec.structs.replace(echo, prompt_text="x" * MAX_BATCH_BYTES)
    said: list[ToGateway] = [echo, echo, delta("a", 0), too_large, echo, delta("a", 1), finished("a", seq=3)]
    frames = encode_batch(said)
    assert [message for frame in frames for message in decode_batch(frame)] == said
    assert [len(decode_batch(frame)) for frame in frames if len(frame) > MAX_BATCH_BYTES] == [1]


def test_a_batch_with_one_message_that_is_none_is_refused_whole() -> None:
    (frame,) = encode_batch([delta("a", 0)])
    other = bytes((VERSION,)) + msgspec.msgpack.encode([delta("a", 0), JOB])
    for data in (b"", frame[:-1], frame + b"\x00", encode(delta("a", 0)), other):
        with pytest.raises(WireError):
            decode_batch(data)
