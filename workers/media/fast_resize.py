"""Tiles by FFmpeg's bicubic filter on planar RGB: three to four times as fast as Pillow's, and not exact.

An option for who asks for it. Both filters widen with the scale; they differ in rounding and, where a picture is
enlarged, in the cubic itself (0.6 instead of 0.5). Of 255 levels, photographs and footage differ by 3 at most and by a
third of one on average; pictures of single-pixel noise or hard edges by up to 32 where they are enlarged, 2.3 on
average.
"""

import numpy as np
from av import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

_PLANES = (1, 2, 0)  # green, blue and red, as channels of RGB: the order of FFmpeg's gbrp


def write_tiles_fast(picture: Image.Image, grid: tuple[int, int], tiles: np.ndarray) -> None:
    """As `tiling.write_tiles`."""
    columns, rows = grid
    size = tiles.shape[1]
    source = _to_planes(picture)
    cut = tiles[: rows * columns].reshape(rows, columns, size, size, 3)
    for channel, plane in _scaled(source, columns * size, rows * size):
        cut[..., channel] = plane.reshape(rows, size, columns, size).swapaxes(1, 2)
    if len(tiles) > rows * columns:
        for channel, plane in _scaled(source, size, size):
            tiles[-1, ..., channel] = plane


def _to_planes(picture: Image.Image) -> VideoFrame:
    frame = VideoFrame(picture.width, picture.height, "gbrp")
    for index, channel in enumerate(_PLANES):
        _plane(frame, index)[...] = np.asarray(picture.getchannel(channel))
    return frame


def _scaled(source: VideoFrame, width: int, height: int) -> list[tuple[int, np.ndarray]]:
    """Channel of RGB -> its scaled values [height, width]."""
    scaled = VideoReformatter().reformat(source, width, height, "gbrp", interpolation=Interpolation.BICUBIC, threads=1)
    return [(channel, _plane(scaled, index).copy()) for index, channel in enumerate(_PLANES)]


def _plane(frame: VideoFrame, index: int) -> np.ndarray:
    plane = frame.planes[index]
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
