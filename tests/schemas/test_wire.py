"""Messages as bytes: both ways of making them, and what is none."""

import msgspec
import pytest

from schemas.control import Cancel
from schemas.data_url import LongText
from schemas.events import Accepted
from schemas.jobs import ChatJob, ImagePart, Message, TextPart, VideoPart
from schemas.sampling import SamplingParams
from schemas.wire import (
    MAX_BATCH_BYTES,
    VERSION,
    ToGateway,
    WireError,
    decode_batch,
    decode_for_worker,
    decode_frames,
    encode,
    encode_batch,
    encode_frames,
)
from tests.fakes.messages import accepted, delta, finished, hello

JOB = ChatJob(
    job_id="a",
    model="tiny",
    messages=(Message("user", (ImagePart("data:image/png;base64," + "QUJD" * 100_000, "p"), TextPart("what?"))),),
    sampling=SamplingParams(seed=0),
)


PICTURE, CLIP = b"QUJD" * 100_000, b"REVG" * 200_000
MEDIA = (
    ImagePart("data:image/png;base64,", "p", text=LongText(memoryview(PICTURE))),
    TextPart("and"),
    VideoPart("data:video/mp4;base64,", "q", text=LongText(bytearray(CLIP))),
)
WITH_TEXTS = msgspec.structs.replace(JOB, messages=(Message("user", MEDIA),))


@pytest.mark.parametrize("message", [JOB, WITH_TEXTS, Cancel(job_id="a")])
def test_a_message_is_read_from_any_buffer(message: ChatJob | Cancel) -> None:
    data = encode(message)
    assert data[0] == VERSION
    for buffer in (data, bytearray(data), memoryview(data)):
        assert decode_for_worker(buffer) == message


@pytest.mark.parametrize("message", [JOB, Cancel(job_id="a")])
def test_a_message_without_long_texts_is_one_frame_with_the_same_bytes(message: ChatJob | Cancel) -> None:
    (frame,) = frames = encode_frames(message)
    assert frame == encode(message)
    assert decode_frames(frames) == message


def test_long_texts_are_frames_of_their_own_and_copied_at_neither_end() -> None:
    frames = encode_frames(WITH_TEXTS)
    assert [len(frame) for frame in frames[1:]] == [len(PICTURE), len(CLIP)] and len(frames[0]) < 1000
    received = decode_frames(frames)
    assert received == WITH_TEXTS and isinstance(received, ChatJob)
    picture, _, clip = received.messages[0].parts
    assert isinstance(picture, ImagePart) and isinstance(clip, VideoPart)
    assert picture.text is not None and clip.text is not None
    for text, frame, sent in zip((picture.text, clip.text), frames[1:], (MEDIA[0], MEDIA[2]), strict=True):
        assert text.data is frame and isinstance(sent, ImagePart | VideoPart)
        assert sent.text is not None and sent.text.data is frame


def test_a_message_whose_texts_are_not_there_is_none() -> None:
    frames = encode_frames(WITH_TEXTS)
    for too_few in (frames[:1], frames[:2]):
        with pytest.raises(WireError):
            decode_frames(too_few)
    with pytest.raises(WireError):
        decode_for_worker(frames[0])
    with pytest.raises(WireError):
        decode_frames([encode(WITH_TEXTS), *frames[1:]])


def test_a_message_and_its_texts_are_over_the_limit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = encode_frames(WITH_TEXTS)
    monkeypatch.setattr("schemas.wire.MAX_MESSAGE_BYTES", sum(map(len, frames)) - 1)
    with pytest.raises(WireError, match="limit"):
        decode_frames(frames)


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
