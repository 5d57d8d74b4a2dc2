"""Forged, broken and oversized clips against the decoder itself."""

import io
import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

from schemas.errors import ErrorCode, MediaError
from tests.workers.media.clips import audio_only, clip, forge, playlists, repeated, wrapped
from tests.workers.media.decoding import decode, fails
from workers.media.video import open_clip


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Whose port nobody may reach."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.mark.parametrize("name", playlists(1))
def test_texts_that_name_other_files_open_nothing(name: str, listener: socket.socket) -> None:
    code = fails(playlists(listener.getsockname()[1])[name])
    assert code in (ErrorCode.INVALID_VIDEO_FORMAT, ErrorCode.VIDEO_PARSE_ERROR)
    if "magic" not in name:
        assert code == ErrorCode.INVALID_VIDEO_FORMAT
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_forged_sample_count_is_not_believed() -> None:
    content = forge(clip(num_frames=30), b"stts", 8, 2**31 - 1)
    try:
        tiles, _ = decode(content)
        assert len(tiles) == 4
    except MediaError as error:
        assert error.code in (ErrorCode.VIDEO_PARSE_ERROR, ErrorCode.VIDEO_TOO_LARGE)


@pytest.mark.parametrize(("box", "at"), [(b"stsz", 8), (b"stsc", 4), (b"stco", 4), (b"stss", 4)])
def test_other_forged_counts_end_in_an_answer(box: bytes, at: int) -> None:
    content = forge(clip(num_frames=30), box, at, 2**31 - 1)
    try:
        assert len(decode(content)[0]) == 4
    except MediaError as error:
        assert error.code in (ErrorCode.VIDEO_PARSE_ERROR, ErrorCode.VIDEO_TOO_LARGE)


def test_incomplete_files_are_parse_errors() -> None:
    late = clip(num_frames=30)
    early = clip(num_frames=30, movflags="faststart")
    assert fails(late[: len(late) // 2]) == ErrorCode.VIDEO_PARSE_ERROR
    assert fails(late.replace(b"moov", b"xoov")) == ErrorCode.VIDEO_PARSE_ERROR
    assert fails(late[:40]) == ErrorCode.VIDEO_PARSE_ERROR
    assert fails(early[: early.index(b"moov") + 40]) == ErrorCode.VIDEO_PARSE_ERROR


def test_files_without_a_picture_are_parse_errors() -> None:
    assert fails(audio_only()) == ErrorCode.VIDEO_PARSE_ERROR
    empty = forge(clip(num_frames=30), b"stsz", 8, 0)
    for box in (b"stts", b"stsc", b"stco"):
        empty = forge(empty, box, 4, 0)
    assert fails(empty) == ErrorCode.VIDEO_PARSE_ERROR


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\x00" * 4096, b"<html></html>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"]
)
def test_other_files_are_a_wrong_format(content: bytes) -> None:
    assert fails(content) == ErrorCode.INVALID_VIDEO_FORMAT


def test_large_frames_are_refused_by_the_header() -> None:
    content = clip(num_frames=2, size=(4160, 64), codec="mpeg4")
    assert fails(content) == ErrorCode.VIDEO_TOO_LARGE


@pytest.mark.parametrize("container", ["mp4", "matroska", "avi"])
def test_a_long_clip_is_refused(container: str) -> None:
    content = clip(num_frames=700, size=(16, 16), fps=1, container=container, codec="mpeg4")
    assert fails(content) == ErrorCode.VIDEO_TOO_LARGE


def test_metadata_in_another_encoding_do_no_harm() -> None:
    content = clip(num_frames=3)
    assert len(decode(content.replace(b"Lavf", b"\xfc\xff\xbb\x80"))[0]) == 4


def test_many_frames_are_no_reason_to_refuse() -> None:
    tiles, _ = decode(clip(num_frames=2000, size=(16, 16), fps=100, keyframe_every=50), num_frames=8)
    assert len(tiles) == 8


def test_flipped_bytes_give_frames_or_a_media_error() -> None:
    content = clip(num_frames=12)
    random = np.random.default_rng(2)
    for _ in range(60):
        damaged = bytearray(content)
        for at in random.integers(0, len(damaged), 6):
            damaged[at] ^= int(random.integers(1, 256))
        try:
            decode(bytes(damaged))
        except MediaError:
            pass


def test_a_clip_that_grows_on_the_way_is_refused_at_the_frame() -> None:
    small = clip(num_frames=4, container="h264", codec="libx264")
    large = clip(num_frames=1, size=(4160, 64), container="h264", codec="libx264")
    with pytest.raises(MediaError) as failed:
        list(open_clip(io.BytesIO(wrapped(small + large))).read(range(5)))
    assert failed.value.code == ErrorCode.VIDEO_TOO_LARGE


def test_thousands_of_parameter_sets_cost_little() -> None:
    content = clip(num_frames=3, container="h264", codec="libx264", keyframe_every=1)
    ends = [at for at in range(len(content) - 4) if content[at : at + 4] == b"\x00\x00\x00\x01"]
    content = wrapped(content[ends[0] : ends[2]] * 4000 + content)
    started = time.process_time()
    try:
        assert len(decode(content)[0]) == 4
    except MediaError as error:
        assert error.code == ErrorCode.VIDEO_PARSE_ERROR
    assert time.process_time() - started < 5


def test_the_largest_frames_are_decoded_within_the_limits() -> None:
    tiles, layout = decode(repeated(600, (4096, 2304)), num_frames=4)
    assert len(tiles) == 4 and (layout.width, layout.height) == (4096, 2304)
