"""The turn that a container asks for, as numpy views. Pure."""

import struct

import numpy as np


def apply_display_matrix(picture: np.ndarray, matrix: bytes | None) -> np.ndarray:
    """`picture` [H, W, C] as it is to be shown, for quarter turns and mirrors; any other matrix changes nothing.

    `matrix`: nine int32 a b u c d v x y w, 16.16 fixed point; a pixel (x, y) is shown at (ax + cy, bx + dy)
    (ISO/IEC 14496-12, 6.2.2; FFmpeg's display.h).
    """
    if matrix is None or len(matrix) != 36:
        return picture
    a, b, _, c, d, *_ = (_sign(value) for value in struct.unpack("=9i", matrix))
    if a and d and not b and not c:
        return picture[:: _step(d), :: _step(a)]
    if b and c and not a and not d:
        return picture.swapaxes(0, 1)[:: _step(b), :: _step(c)]
    return picture


def turned_size(width: int, height: int, matrix: bytes | None) -> tuple[int, int]:
    """Width and height of a picture after `apply_display_matrix`."""
    shown = apply_display_matrix(np.empty((height, width, 0), np.uint8), matrix)
    return shown.shape[1], shown.shape[0]


def _sign(fixed: int) -> int:
    """-1, 0 or 1: scale is not applied, rounding errors of a turn are dropped."""
    return 0 if abs(fixed) < 1 << 15 else (1 if fixed > 0 else -1)


def _step(sign: int) -> int:
    return -1 if sign < 0 else 1
