"""Short ways to decode a clip in tests, and to see it refused."""

import io

import numpy as np
import pytest

from schemas.errors import ErrorCode, MediaError
from workers.media.transforms import video_tiles
from workers.media.types import Layout, VideoOptions


def decode(content: bytes, **options: float) -> tuple[np.ndarray, Layout]:
    """The pixels of four frames of 32 pixels, unless the options say otherwise, and what they are."""
    arrays = []

    def allocate(shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        arrays.append(np.empty(shape, dtype))
        return arrays[-1]

    chosen = VideoOptions(**{"image_size": 32, "num_frames": 4} | options)  # type: ignore[arg-type]
    layout = video_tiles(io.BytesIO(content), chosen, allocate)
    return arrays[0], layout


def fails(content: bytes, **options: float) -> ErrorCode:
    """How a clip is refused; the message gives nothing of the machine away."""
    with pytest.raises(MediaError) as failed:
        decode(content, **options)
    assert "0x" not in failed.value.message and "Errno" not in failed.value.message
    return failed.value.code
