"""Animated pictures as clips."""

import io

import pytest

from schemas.errors import ErrorCode
from tests.workers.media.clips import animation, brightness
from tests.workers.media.decoding import decode, fails
from workers.media.video import open_clip


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
