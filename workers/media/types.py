"""The records of the media pipeline: what a caller asks for and what it gets.

Options are frozen dataclasses of plain scalars or of such dataclasses: they travel to the decode process and into the
digest field by field.
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
    """Tiles of one picture: the grid of `min_tiles` to `max_tiles` squares of `image_size` nearest to its aspect.

    `fast_resize`: with the filter of `fast_resize`, which is not exact; None: as the server is configured.
    """

    image_size: int
    min_tiles: int = 1
    max_tiles: int = 12
    use_thumbnail: bool = True
    exif_transpose: bool = True
    fast_resize: bool | None = None


@dataclass(frozen=True)
class VideoOptions:
    """One `image_size` square a frame.

    `num_frames` frames spread evenly over `start_s`..`end_s` (absent: the whole clip). With `fps`, that many frames a
    second instead, and `num_frames` is the most there may be. `fast_resize`: as for pictures.
    """

    image_size: int
    num_frames: int
    fps: float | None = None
    start_s: float | None = None
    end_s: float | None = None
    fast_resize: bool | None = None


@dataclass(frozen=True)
class PictureOptions:
    """The whole picture as it is, for a processor that cuts and scales it itself."""

    exif_transpose: bool = True


@dataclass(frozen=True)
class FramesOptions:
    """Whole frames of a clip as they are, chosen as `VideoOptions` says."""

    num_frames: int
    fps: float | None = None
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True)
class ViewCut:
    """How InternVideo2-Chat cuts a picture into squares of `image_size`: views.

    Not `is_hd`: the middle square. Else a canvas of squares and then all of it in one: columns x rows of them, or,
    where these are 0, the grid of at most `max_squares` nearest to the picture's aspect; with `is_padded` the widest
    such canvas that keeps the aspect.
    """

    image_size: int
    is_hd: bool = False
    max_squares: int = 1
    is_padded: bool = False
    columns: int = 0
    rows: int = 0


@dataclass(frozen=True)
class ImageViewsOptions:
    """Views of a picture."""

    cut: ViewCut
    exif_transpose: bool = True


@dataclass(frozen=True)
class VideoViewsOptions:
    """Views of a clip: each follows its square through the sampled frames."""

    cut: ViewCut
    frames: VideoOptions


MediaOptions = ImageOptions | VideoOptions | PictureOptions | FramesOptions | ImageViewsOptions | VideoViewsOptions


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
    `tile_counts`: an image: (N,); a video: tiles of each frame, in order; views of either: (N,). `width`, `height`:
    the picture's, in pixels, after any turn. `timestamps_s`: the sampled frames' places in the clip. `digest`: sha256
    over the file's bytes and every option that changes pixels; holds no tenant, so a cache that tenants share must add
    one.
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
