"""Messages as bytes: both ways of making them, and what is none."""

import msgspec
import pytest

from schemas.control import Cancel
from schemas.jobs import ChatJob, ImagePart, Message, TextPart
from schemas.sampling import SamplingParams
from schemas.wire import VERSION, WireError, decode_for_worker, encode, encode_large

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
