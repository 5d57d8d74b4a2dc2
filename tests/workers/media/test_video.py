"""Which frames of a clip are read, and that they are right."""

import gc
import io
from collections.abc import Callable, Iterator
from typing import Any

import av
import numpy as np
import pytest

from schemas.errors import ErrorCode
from tests.workers.media.clips import brightness, clip, turned, uneven
from tests.workers.media.decoding import decode, fails
from workers.media import video
from workers.media.video import open_clip


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


def test_transparent_vp9_is_read() -> None:
    content = clip(container="webm", codec="libvpx-vp9", pix_fmt="yuva420p", num_frames=5)
    tiles, _ = decode(content, num_frames=2)
    assert [brightness(tile) for tile in tiles] == pytest.approx([1, 3], abs=1)


def test_frames_are_freed_as_reading_goes_on() -> None:
    def count_alive() -> int:
        return sum(type(each) is av.VideoFrame for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        frames = open_clip(io.BytesIO(clip(num_frames=60))).read(range(60))
        early, late = [count_alive() for k, _ in enumerate(frames) if k in (20, 59)]
    finally:
        gc.enable()
    assert late <= early
