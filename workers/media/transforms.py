"""Options class -> the pure function that turns a file into pixels. The decode process runs nothing else.

A transform reads `source`, asks `allocate` once for the array it fills, and returns the layout. It must not keep the
array. `num_threads` is for a clip's decoder and changes no pixel. A new family's preprocessing is one more function
here and one more options class in `types`.
"""

from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from workers.media.clip_rules import translated_errors
from workers.media.failures import Failure, media_error
from workers.media.fast_resize import write_tiles_fast
from workers.media.frames import frame_indices, frames_at_times, is_even
from workers.media.image import open_image
from workers.media.tiling import choose_grid, count_tiles, write_tiles
from workers.media.types import (
    FramesOptions,
    ImageOptions,
    ImageViewsOptions,
    Layout,
    MediaKind,
    PictureOptions,
    VideoOptions,
    VideoViewsOptions,
)
from workers.media.video import VideoClip, open_clip
from workers.media.views import count_views, plan_canvas, write_views

Allocate = Callable[[tuple[int, ...], type[np.generic]], np.ndarray]
Transform = Callable[[BinaryIO, Any, Allocate, int], Layout]

MAX_FRAMES = 600


def image_tiles(source: BinaryIO, options: ImageOptions, allocate: Allocate, num_threads: int = 1) -> Layout:
    """uint8 [N, S, S, 3]: the grid's tiles row by row, then the thumbnail if there is more than one."""
    picture = open_image(source, options.exif_transpose)
    grid = choose_grid(picture.width, picture.height, options.min_tiles, options.max_tiles, options.image_size)
    count = count_tiles(grid, options.use_thumbnail)
    write = write_tiles_fast if options.fast_resize else write_tiles
    write(picture, grid, allocate((count, options.image_size, options.image_size, 3), np.uint8))
    return Layout((count,), picture.width, picture.height)


def video_tiles(source: BinaryIO, options: VideoOptions, allocate: Allocate, num_threads: int = 1) -> Layout:
    """uint8 [T, S, S, 3]: one tile a sampled frame, aspect not kept."""
    size = options.image_size
    clip = open_clip(source, num_threads)
    indices = sample(clip, options)
    tiles = allocate((len(indices), size, size, 3), np.uint8)
    position = 0
    with translated_errors():
        for frame in clip.read(indices, size if options.fast_resize else None):
            if options.fast_resize:
                tiles[position] = frame
            else:
                write_tiles(Image.fromarray(frame), (1, 1), tiles[position : position + 1])
            repeats = indices.count(indices[position])
            tiles[position + 1 : position + repeats] = tiles[position]
            position += repeats
    return Layout((1,) * len(indices), *clip.shown_size, seconds_of(clip, indices))


def whole_picture(source: BinaryIO, options: PictureOptions, allocate: Allocate, num_threads: int = 1) -> Layout:
    """uint8 [1, H, W, 3]: nothing cut, nothing scaled."""
    picture = open_image(source, options.exif_transpose)
    allocate((1, picture.height, picture.width, 3), np.uint8)[0] = np.asarray(picture)
    return Layout((1,), picture.width, picture.height)


def whole_frames(source: BinaryIO, options: FramesOptions, allocate: Allocate, num_threads: int = 1) -> Layout:
    """uint8 [T, H, W, 3]: the sampled frames, each once, however often a short clip repeats one."""
    clip = open_clip(source, num_threads)
    indices = sorted(set(sample(clip, options)))
    with translated_errors():
        for position, frame in enumerate(clip.read(indices)):
            if position == 0:
                height, width = frame.shape[:2]
                frames = allocate((len(indices), height, width, 3), np.uint8)
            frames[position] = frame
    return Layout((1,) * len(indices), width, height, seconds_of(clip, indices))


def image_views(source: BinaryIO, options: ImageViewsOptions, allocate: Allocate, num_threads: int = 1) -> Layout:
    """float32 [N, 1, S, S, 3] of 0..255: the views of a picture, each a clip of one frame."""
    picture = open_image(source, options.exif_transpose)
    canvas = plan_canvas(picture.width, picture.height, options.cut)
    size, count = options.cut.image_size, count_views(canvas)
    write_views(np.asarray(picture), canvas, allocate((count, 1, size, size, 3), np.float32)[:, 0])
    return Layout((count,), picture.width, picture.height)


def video_views(source: BinaryIO, options: VideoViewsOptions, allocate: Allocate, num_threads: int = 1) -> Layout:
    """float32 [N, T, S, S, 3] of 0..255: the views of a clip, cut as its first sampled frame is."""
    size = options.cut.image_size
    clip = open_clip(source, num_threads)
    indices = sample(clip, options.frames)
    height = width = position = 0
    with translated_errors():
        for frame in clip.read(indices):
            if position == 0:
                height, width = frame.shape[:2]
                canvas = plan_canvas(width, height, options.cut)
                views = allocate((count_views(canvas), len(indices), size, size, 3), np.float32)
            write_views(frame, canvas, views[:, position])
            repeats = indices.count(indices[position])
            views[:, position + 1 : position + repeats] = views[:, position : position + 1]
            position += repeats
    return Layout((len(views),), width, height, seconds_of(clip, indices))


def sample(clip: VideoClip, options: VideoOptions | FramesOptions) -> list[int]:
    """Indices of the frames that `options` ask for. Raises MediaError where their part of the clip is empty.

    Uneven frames are found by their time stamps, unless nothing but a number is asked for: then as the reference does.
    """
    num_frames = min(options.num_frames, MAX_FRAMES)
    part = (options.fps, options.start_s, options.end_s)
    has_times = clip.times_s[-1] > 0 and not is_even(clip.times_s, clip.average_fps)
    try:
        if has_times and part != (None, None, None):
            return frames_at_times(clip.times_s, num_frames, *part)
        return frame_indices(clip.frame_count, clip.average_fps, num_frames, *part)
    except ValueError as error:
        message = "The requested part of the video is empty: check start and end against the clip's length."
        raise media_error(MediaKind.VIDEO, Failure.PARSE, message) from error


def seconds_of(clip: VideoClip, indices: Sequence[int]) -> tuple[float, ...]:
    """When the frames are shown: where they are evenly spaced by their number, as the references print it."""
    if is_even(clip.times_s, clip.average_fps):
        return tuple(index / clip.average_fps for index in indices)
    return tuple(clip.times_s[index] for index in indices)


TRANSFORMS: dict[type, Transform] = {
    ImageOptions: image_tiles,
    VideoOptions: video_tiles,
    PictureOptions: whole_picture,
    FramesOptions: whole_frames,
    ImageViewsOptions: image_views,
    VideoViewsOptions: video_views,
}
