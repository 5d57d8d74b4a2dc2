"""Preprocessing as the model cards' examples do it, on one thread: what the media pipeline is measured against.

Pillow for pictures, decord for clips, each tile a picture of its own that becomes a normalised float tensor.
"""

import io
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


def picture_pixels(content: bytes, size: int, max_tiles: int) -> Tensor:
    """float32 [N, 3, size, size]."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    return torch.stack([_normalised(tile, size) for tile in _tiles(picture, size, max_tiles)])


def clip_pixels(content: bytes, size: int, num_frames: int) -> Tensor:
    """float32 [num_frames, 3, size, size]. Raises ImportError where there is no decord."""
    from decord import VideoReader, cpu

    reader = VideoReader(io.BytesIO(content), ctx=cpu(0), num_threads=1)
    segment = (len(reader) - 1) / num_frames
    pixels = []
    for k in range(num_frames):
        frame = reader[int(segment / 2 + np.round(segment * k))].asnumpy()
        picture = Image.fromarray(frame).convert("RGB")
        pixels += [_normalised(tile, size) for tile in _tiles(picture, size, 1)]
    return torch.stack(pixels)


def normalise(tiles: np.ndarray) -> Tensor:
    """uint8 [N, S, S, 3] as the device does it, in the same three operations."""
    return torch.from_numpy(tiles).permute(0, 3, 1, 2).float().div(255).sub(MEAN).div(STD)


def _tiles(picture: Image.Image, size: int, max_tiles: int) -> Iterator[Image.Image]:
    columns, rows = _grid(picture.width, picture.height, size, max_tiles)
    canvas = picture.resize((columns * size, rows * size))
    for place in range(columns * rows):
        left, top = place % columns * size, place // columns * size
        yield canvas.crop((left, top, left + size, top + size))
    if columns * rows > 1:
        yield picture.resize((size, size))


def _grid(width: int, height: int, size: int, max_tiles: int) -> tuple[int, int]:
    sides = range(1, max_tiles + 1)
    grids = sorted(
        {(columns, rows) for columns in sides for rows in sides if columns * rows <= max_tiles},
        key=lambda grid: grid[0] * grid[1],
    )
    nearest, best = float("inf"), (1, 1)
    for columns, rows in grids:
        distance = abs(width / height - columns / rows)
        if distance < nearest:
            nearest, best = distance, (columns, rows)
        elif distance == nearest and width * height > 0.5 * size * size * columns * rows:
            best = (columns, rows)
    return best


def _normalised(tile: Image.Image, size: int) -> Tensor:
    resized = tile.resize((size, size), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous().float().div(255)
    return pixels.sub(MEAN).div(STD)
