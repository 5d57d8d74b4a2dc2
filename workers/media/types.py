"""The records of the media pipeline: what a caller asks for and what it gets.

Options are frozen dataclasses of plain scalars: they travel to the decode process and into the digest field by field.
A model family with its own preprocessing adds its options class here and its function to `transforms.TRANSFORMS`.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np


class MediaKind(StrEnum):
    """Decides limits and error codes; the value is the middle word of the codes."""

    IMAGE = "image"
    VIDEO = "video"


@dataclass(frozen=True)
class ImageOptions:
    """Tiles of one picture: the grid of `min_tiles` to `max_tiles` squares of `image_size` nearest to its aspect."""

    image_size: int
    min_tiles: int = 1
    max_tiles: int = 12
    use_thumbnail: bool = True
    exif_transpose: bool = True


@dataclass(frozen=True)
class VideoOptions:
    """One `image_size` square a frame.

    `num_frames` frames spread evenly over `start_s`..`end_s` (absent: the whole clip). With `fps`, that many frames a
    second instead, and `num_frames` is the most there may be.
    """

    image_size: int
    num_frames: int
    fps: float | None = None
    start_s: float | None = None
    end_s: float | None = None


MediaOptions = ImageOptions | VideoOptions


@dataclass(frozen=True)
class Layout:
    """What a transform says about the pixels it wrote."""

    tile_counts: tuple[int, ...]
    width: int
    height: int
    timestamps_s: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class PreparedMedia:
    """One picture or clip, ready for a vision tower's normalisation.

    `tiles`: uint8 [N, S, S, 3], RGB, not to be written to (the cache shares it); a family's own transform may choose
    another shape or float32.
    `tile_counts`: an image: (N,); a video: tiles of each frame, in order. `width`, `height`: the picture's, in pixels,
    after any turn. `timestamps_s`: the sampled frames' places in the clip. `digest`: sha256 over the file's bytes and
    every option that changes pixels; holds no tenant, so a cache that tenants share must add one.
    """

    tiles: np.ndarray
    tile_counts: tuple[int, ...]
    digest: bytes
    width: int
    height: int
    timestamps_s: tuple[float, ...] = ()

    @property
    def size_bytes(self) -> int:
        return self.tiles.nbytes
