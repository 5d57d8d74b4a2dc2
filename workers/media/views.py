"""A picture into the views of InternVideo2-Chat, with the resizes of its model cards. Pure.

Values stay on the scale 0..255, in float32: the bicubic filter leaves that range and the references do not clamp.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workers.media.tiling import choose_grid
from workers.media.types import ViewCut

Floats = NDArray[np.float32]
_CUBIC = np.float32(-0.75)
_WHITE = 255.0


@dataclass(frozen=True)
class Canvas:
    """A grid of squares, and the rows [top, top + height) of it that a picture is stretched over; the rest is white.

    is_turned: the picture is turned by 180 degrees before that, and the canvas back after it.
    """

    columns: int
    rows: int
    top: int
    height: int
    is_turned: bool = False


def plan_canvas(width: int, height: int, cut: ViewCut) -> Canvas | None:
    """Where the squares of a picture come from; None where its one view is a crop."""
    if not cut.is_hd:
        return None
    if cut.is_padded:
        return _padded_canvas(width, height, cut)
    columns, rows = cut.columns, cut.rows
    if not columns:
        columns, rows = choose_grid(width, height, 1, cut.max_squares, cut.image_size)
    return Canvas(columns, rows, 0, rows * cut.image_size)


def count_views(canvas: Canvas | None) -> int:
    """The squares and the whole; or the crop."""
    return 1 if canvas is None else canvas.columns * canvas.rows + 1


def write_views(picture: np.ndarray, canvas: Canvas | None, views: Floats) -> None:
    """Fill `views`, float32 [N, S, S, 3], from RGB uint8 [H, W, 3]: squares row by row, the whole canvas last."""
    size = views.shape[1]
    if canvas is None:
        views[0] = _crop(picture, size)
        return
    columns, rows = canvas.columns, canvas.rows
    drawn = _draw(picture, canvas, size)
    views[:-1].reshape(rows, columns, size, size, 3)[...] = drawn.reshape(rows, size, columns, size, 3).swapaxes(1, 2)
    views[-1] = resize_bicubic(drawn, size, size)


def resize_bicubic(picture: np.ndarray, height: int, width: int) -> Floats:
    """[H, W, C] -> float32 [height, width, C]: four taps (a = -0.75), no antialiasing, pixel centres aligned, as
    torch.nn.functional.interpolate(mode="bicubic") does."""
    for axis, length in ((0, height), (1, width)):
        places, weights = _taps(picture.shape[axis], length)
        shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
        resized = picture.take(places[0], axis) * weights[0].reshape(shape)
        for place, weight in zip(places[1:], weights[1:], strict=True):
            resized += picture.take(place, axis) * weight.reshape(shape)
        picture = resized
    return picture


def _padded_canvas(width: int, height: int, cut: ViewCut) -> Canvas:
    """As wide as max_squares permits for the long side, with the aspect kept, and white above and below.

    A tall picture gets the canvas of the wide one with its sides swapped: the reference stretches it onto that.
    """
    size, aspect = cut.image_size, max(width, height) / min(width, height)
    columns = 1
    while (columns + 1) * math.ceil((columns + 1) / aspect) <= cut.max_squares:
        columns += 1
    # A strip thinner than one row of the canvas has no picture in it.
    used = max(1, int(columns * size / aspect))
    rows = math.ceil(used / size)
    return Canvas(columns, rows, (rows * size - used) // 2, used, is_turned=width < height)


def _draw(picture: np.ndarray, canvas: Canvas, size: int) -> Floats:
    drawn = np.full((canvas.rows * size, canvas.columns * size, 3), _WHITE, np.float32)
    picture = picture[::-1, ::-1] if canvas.is_turned else picture
    drawn[canvas.top : canvas.top + canvas.height] = resize_bicubic(picture, canvas.height, canvas.columns * size)
    return drawn[::-1, ::-1] if canvas.is_turned else drawn


def _crop(picture: np.ndarray, size: int) -> Floats:
    """The middle square of the picture with its short side at `size`; the filter is antialiased (Pillow's is torch's).

    Side lengths and offsets are those of torchvision's Resize and CenterCrop.
    """
    height, width = picture.shape[:2]
    short = min(height, width)
    new_height, new_width = int(size * height / short), int(size * width / short)
    top, left = round((new_height - size) / 2), round((new_width - size) / 2)
    channels = (Image.fromarray(channel.astype(np.float32)) for channel in picture.transpose(2, 0, 1))
    resized = [np.asarray(channel.resize((new_width, new_height), Image.Resampling.BICUBIC)) for channel in channels]
    return np.stack(resized, axis=-1)[top : top + size, left : left + size]


def _taps(length: int, new_length: int) -> tuple[NDArray[np.intp], Floats]:
    """Places [4, new_length] along an axis of `length` that each new one reads, and their weights."""
    scale = np.float32(length) / np.float32(new_length)
    centres = scale * (np.arange(new_length, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    first = np.floor(centres)
    offset = centres - first
    weights = np.stack([_outer(offset + 1), _inner(offset), _inner(1 - offset), _outer(2 - offset)])
    places = first.astype(np.intp) + np.arange(-1, 3)[:, None]
    return places.clip(0, length - 1), weights


def _inner(x: Floats) -> Floats:
    """The cubic kernel for distances up to 1."""
    return ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1


def _outer(x: Floats) -> Floats:
    """The cubic kernel for distances from 1 to 2."""
    return ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC
