"""Clips and forged containers against the decoder itself."""

import gc
import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import av
import numpy as np
import pytest

from schemas.errors import ErrorCode, MediaError
from tests.workers.media.clips import (
    animation,
    audio_only,
    brightness,
    clip,
    forge,
    playlists,
    repeated,
    turned,
    uneven,
    wrapped,
)
from workers.media import video
from workers.media.transforms import video_tiles
from workers.media.types import Layout, VideoOptions
from workers.media.video import open_clip


def decode(content: bytes, **options: float) -> tuple[np.ndarray, Layout]:
    arrays = []

    def allocate(shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        arrays.append(np.empty(shape, dtype))
        return arrays[-1]

    chosen = VideoOptions(**{"image_size": 32, "num_frames": 4} | options)  # type: ignore[arg-type]
    layout = video_tiles(io.BytesIO(content), chosen, allocate)
    return arrays[0], layout


def fails(content: bytes, **options: float) -> ErrorCode:
    with pytest.raises(MediaError) as failed:
        decode(content, **options)
    assert "0x" not in failed.value.message and "Errno" not in failed.value.message
    return failed.value.code


@pytest.mark.parametrize("name", ["clip_24f_8fps", "clip_5f_2fps", "clip_90f_30fps"])
def test_frames_equal_decords_bit_for_bit(name: str, read_media: Callable[[str], bytes]) -> None:
    decord = pytest.importorskip("decord")
    content = read_media(f"media/{name}.mp4")
    reference = decord.VideoReader(io.BytesIO(content), num_threads=1)
    opened = open_clip(io.BytesIO(content))
    assert opened.frame_count == len(reference)
    assert opened.average_fps == reference.get_avg_fps()
    for index, frame in enumerate(opened.read(range(opened.frame_count))):
        np.testing.assert_array_equal(frame, reference[index].asnumpy())


@pytest.mark.parametrize(
    ("container", "codec", "pix_fmt", "b_frames"),
    [
        ("mp4", "libx264", "yuv420p", 0),
        ("mp4", "libx264", "yuv420p", 2),
        ("mov", "mpeg4", "yuv420p", 2),
        ("matroska", "libx264", "yuv420p", 2),
        ("webm", "libvpx", "yuv420p", 0),
        ("avi", "mpeg4", "yuv420p", 0),
        ("avi", "libx264", "yuv420p", 0),
        ("gif", "gif", "rgb8", 0),
        ("mp4", "libx265", "yuv420p", 2),
        ("webm", "libvpx-vp9", "yuv420p", 0),
        ("mp4", "libsvtav1", "yuv420p", 0),
        ("matroska", "ffv1", "yuv420p", 0),
        ("mov", "mjpeg", "yuvj420p", 0),
    ],
)
def test_any_frames_are_the_same_sought_or_in_order(container: str, codec: str, pix_fmt: str, b_frames: int) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV has no {codec} here")
    content = clip(container=container, codec=codec, b_frames=b_frames, keyframe_every=5, pix_fmt=pix_fmt)
    everything = list(open_clip(io.BytesIO(content)).read(range(30)))
    assert [brightness(frame) for frame in everything] == pytest.approx(list(range(30)), abs=1)
    for indices in ([0], [29], [4, 5, 6], [1, 14, 28], [0, 29], [9, 10, 11, 24]):
        some = list(open_clip(io.BytesIO(content)).read(indices))
        assert len(some) == len(indices)
        for index, frame in zip(indices, some, strict=True):
            np.testing.assert_array_equal(frame, everything[index])


def test_seeking_saves_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    content = clip(num_frames=200, keyframe_every=10)
    decoded: list[int] = []

    def counting(*args: Any) -> Iterator[tuple[int, av.VideoFrame]]:
        for number, frame in numbered(*args):
            decoded.append(number)
            yield number, frame

    numbered = video._numbered
    monkeypatch.setattr(video, "_numbered", counting)
    frames = list(open_clip(io.BytesIO(content)).read([5, 105, 195]))
    assert [brightness(frame) for frame in frames] == pytest.approx([5, 15, 15], abs=1)
    assert len(decoded) <= 18


def test_sampling_repeats_frames_of_a_short_clip() -> None:
    tiles, layout = decode(clip(num_frames=2, fps=2), num_frames=8)
    assert tiles.shape == (8, 32, 32, 3)
    assert layout.tile_counts == (1,) * 8
    assert (layout.width, layout.height) == (64, 48)
    assert layout.timestamps_s == (0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5)
    assert [brightness(tile) for tile in tiles] == [0] * 5 + [1] * 3


def test_one_frame_is_enough() -> None:
    tiles, _ = decode(clip(num_frames=1), num_frames=3)
    assert [brightness(tile) for tile in tiles] == [0, 0, 0]


def test_fps_and_bounds_choose_the_part() -> None:
    tiles, layout = decode(clip(num_frames=30, fps=10), num_frames=64, fps=5.0, start_s=1.0, end_s=1.9)
    assert len(tiles) == 5
    assert layout.timestamps_s[0] >= 1.0 and layout.timestamps_s[-1] <= 1.9
    assert [brightness(tile) for tile in tiles] == pytest.approx([10 * t for t in layout.timestamps_s], abs=1)
    assert fails(clip(num_frames=30), start_s=99.0) == ErrorCode.VIDEO_PARSE_ERROR


def test_never_more_than_six_hundred_frames() -> None:
    tiles, _ = decode(clip(num_frames=20), num_frames=10_000, image_size=4)
    assert len(tiles) == 600


@pytest.mark.parametrize(
    ("matrix", "shape", "corner"),
    [
        ((1, 0, 0, 1), (48, 64), "upper left"),
        ((0, 1, -1, 0), (64, 48), "upper right"),
        ((-1, 0, 0, -1), (48, 64), "lower right"),
        ((0, -1, 1, 0), (64, 48), "lower left"),
        ((-1, 0, 0, 1), (48, 64), "upper right"),
        ((1, 0, 0, -1), (48, 64), "lower left"),
        ((0, 1, 1, 0), (64, 48), "upper left"),
    ],
)
def test_frames_are_turned_as_the_file_says(
    matrix: tuple[int, int, int, int], shape: tuple[int, int], corner: str
) -> None:
    (frame,) = open_clip(io.BytesIO(turned(clip(num_frames=2), *matrix))).read([0])
    assert frame.shape[:2] == shape
    height, width = shape[0] // 8, shape[1] // 8
    corners = {
        "upper left": frame[:height, :width],
        "upper right": frame[:height, -width:],
        "lower left": frame[-height:, :width],
        "lower right": frame[-height:, -width:],
    }
    assert max(corners, key=lambda name: corners[name].mean()) == corner


@pytest.mark.parametrize("name", playlists(1))
def test_texts_that_name_other_files_open_nothing(name: str) -> None:
    started = time.monotonic()
    code = fails(playlists(1)[name])
    assert code in (ErrorCode.INVALID_VIDEO_FORMAT, ErrorCode.VIDEO_PARSE_ERROR)
    if "magic" not in name:
        assert code == ErrorCode.INVALID_VIDEO_FORMAT
    assert time.monotonic() - started < 5


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


def test_ten_bit_and_full_range_are_read() -> None:
    frames = list(open_clip(io.BytesIO(clip(pix_fmt="yuv420p10le", num_frames=3))).read([0, 2]))
    assert [brightness(frame) for frame in frames] == pytest.approx([0, 2], abs=1)
    assert (
        len(
            list(
                open_clip(io.BytesIO(clip(pix_fmt="yuvj420p", codec="mjpeg", container="mov", num_frames=3))).read([1])
            )
        )
        == 1
    )


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


@pytest.mark.parametrize("image_format", ["WEBP", "GIF"])
def test_animations_are_clips(image_format: str) -> None:
    opened = open_clip(io.BytesIO(animation(image_format)))
    assert (opened.frame_count, opened.average_fps) == (30, pytest.approx(10))
    frames = list(opened.read([0, 3, 4, 29]))
    assert [brightness(frame) for frame in frames] == pytest.approx([0, 3, 4, 29], abs=1)
    assert frames[0].shape == (48, 64, 3)
    _, layout = decode(animation(image_format), num_frames=3, start_s=1.0, end_s=2.0)
    assert layout.timestamps_s == pytest.approx((1.1, 1.5, 1.8), abs=0.11)


def test_a_still_webp_is_a_clip_of_one_frame() -> None:
    tiles, _ = decode(animation("WEBP", num_frames=1), num_frames=2)
    assert len(tiles) == 2


def test_animated_webp_is_judged_before_it_is_decoded() -> None:
    content = animation("WEBP", num_frames=3)
    assert content[12:16] == b"VP8X"
    assert fails(content[:24] + (8191).to_bytes(3, "little") + content[27:]) == ErrorCode.VIDEO_TOO_LARGE
    assert fails(animation("WEBP", num_frames=7, frame_ms=100_000)) == ErrorCode.VIDEO_TOO_LARGE
    assert fails(content[: len(content) // 2]) == ErrorCode.VIDEO_PARSE_ERROR
    assert fails(content[:28]) == ErrorCode.VIDEO_PARSE_ERROR


def test_an_animated_png_is_no_clip() -> None:
    assert fails(animation("PNG", num_frames=3)) == ErrorCode.INVALID_VIDEO_FORMAT


UNEVEN_MS = [0, 100, 200, 300, 4000, 8000]


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("matroska", "libx264")])
def test_uneven_frames_are_chosen_by_their_time_stamps(container: str, codec: str) -> None:
    content = uneven(UNEVEN_MS, container, codec)
    assert open_clip(io.BytesIO(content)).times_s == pytest.approx([ms / 1000 for ms in UNEVEN_MS], abs=0.002)
    tiles, layout = decode(content, num_frames=2, start_s=4.0, end_s=7.5)
    assert [brightness(tile) for tile in tiles] == [4, 4] and layout.timestamps_s == pytest.approx((4.0, 4.0))
    tiles, layout = decode(content, num_frames=64, fps=0.5)
    assert [brightness(tile) for tile in tiles][:3] == [3, 3, 4]
    assert layout.timestamps_s[-1] == pytest.approx(8.0)


def test_a_number_alone_counts_uneven_frames_as_the_reference_does() -> None:
    tiles, layout = decode(uneven(UNEVEN_MS), num_frames=6)
    assert [brightness(tile) for tile in tiles] == [0, 1, 2, 2, 3, 4]
    assert layout.timestamps_s == pytest.approx((0.0, 0.1, 0.2, 0.2, 0.3, 4.0), abs=0.002)


def test_a_clip_that_grows_on_the_way_is_refused_at_the_frame() -> None:
    small = clip(num_frames=4, container="h264", codec="libx264")
    large = clip(num_frames=1, size=(4160, 64), container="h264", codec="libx264")
    with pytest.raises(MediaError) as failed:
        list(open_clip(io.BytesIO(wrapped(small + large))).read(range(5)))
    assert failed.value.code == ErrorCode.VIDEO_TOO_LARGE


def test_transparent_vp9_is_read() -> None:
    content = clip(container="webm", codec="libvpx-vp9", pix_fmt="yuva420p", num_frames=5)
    tiles, _ = decode(content, num_frames=2)
    assert [brightness(tile) for tile in tiles] == pytest.approx([1, 3], abs=1)


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


def test_frames_are_freed_as_reading_goes_on() -> None:
    def count_alive() -> int:
        return sum(type(each) is av.VideoFrame for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = count_alive()
        frames = open_clip(io.BytesIO(clip(num_frames=60))).read(range(60))
        alive = [count_alive() - before for _ in frames]
    finally:
        gc.enable()
    assert len(alive) == 60 and alive[-1] <= alive[20]
