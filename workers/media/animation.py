"""Animated WebP as a clip, with Pillow: FFmpeg's readers know still pictures of that format only.

Runs in the decode process. How many frames there are, and for how long each is shown, is read from the chunks; pixels
are decoded on demand. https://developers.google.com/speed/webp/docs/riff_container
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image, WebPImagePlugin

from workers.media.clip_rules import MAX_DURATION_S, MAX_FPS, MAX_PACKETS, check_size, damaged, too_long
from workers.media.fast_resize import write_tiles_fast

_DEFAULT_FRAME_S = 0.1  # as browsers do where a file says 0
_HAS_ANIMATION = 0x02


class WebPClip:
    """The frames of an animation; a still picture is a clip of one frame. Raises MediaError."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        durations_s = _durations_s(source)
        starts_s = list(itertools.accumulate(durations_s, initial=0.0))
        if starts_s[-1] > MAX_DURATION_S:
            raise too_long()
        self.times_s: Sequence[float] = starts_s[:-1]
        self.frame_count = len(durations_s)
        self.average_fps = min(self.frame_count / starts_s[-1], float(MAX_FPS))
        self.shown_size = (0, 0)

    def read(self, indices: Sequence[int], square: int | None = None) -> Iterator[np.ndarray]:
        """See `video.VideoClip`."""
        self._source.seek(0)
        with WebPImagePlugin.WebPImageFile(self._source) as image:
            for index in sorted(set(indices)):
                image.seek(index)
                frame = image.convert("RGB")
                self.shown_size = frame.size
                if square is None:
                    yield np.asarray(frame)
                else:
                    tiles = np.empty((1, square, square, 3), np.uint8)
                    write_tiles_fast(frame, (1, 1), tiles)
                    yield tiles[0]


def _durations_s(source: BinaryIO) -> list[float]:
    """Of each frame. Judges the canvas before Pillow allocates it."""
    head = source.read(30)
    if len(head) < 30:
        raise damaged()
    if head[12:16] != b"VP8X" or not head[20] & _HAS_ANIMATION:
        source.seek(0)
        with Image.open(source, formats=["WEBP"]) as image:
            check_size(*image.size)
        return [_DEFAULT_FRAME_S]
    check_size(1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little"))
    durations_s = []
    while len(header := source.read(8)) == 8:
        size = int.from_bytes(header[4:], "little")
        payload = source.read(16) if header[:4] == b"ANMF" else b""
        if len(payload) == 16:
            durations_s.append(int.from_bytes(payload[12:15], "little") / 1000 or _DEFAULT_FRAME_S)
        if len(durations_s) > MAX_PACKETS:
            raise too_long()
        source.seek(max(0, size + size % 2 - len(payload)), 1)
    if not durations_s:
        raise damaged()
    return durations_s
