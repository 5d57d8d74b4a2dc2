"""Bytes of a picture into RGB, with Pillow. Judges the header before any pixel is decoded.

Runs in the decode process. Pillow's own guards (MAX_IMAGE_PIXELS, LOAD_TRUNCATED_IMAGES) stay as they are: they are far
too loose for a server, so the limits here come first.
"""

import warnings
from typing import BinaryIO

# The plugins register the readers; nothing can be imported late, once the decode process has locked itself in.
from PIL import (
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from schemas.errors import MediaError
from workers.media.failures import Failure, media_error
from workers.media.types import MediaKind

MAX_PIXELS = 40_000_000
MAX_SIDE = 16_384
MAX_ASPECT = 200

# What a file begins with -> the only Pillow reader that may touch it.
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
)

_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(source: BinaryIO, exif_transpose: bool) -> Image.Image:
    """The first frame as RGB: alpha dropped, palettes and gray expanded as `convert("RGB")` does.

    Raises MediaError: not one of the readable formats, too many pixels, too long a side, too thin, broken.
    """
    image_format = _sniff(source)
    try:
        # Pillow warns about bombs that the limits here refuse anyway, and about palettes with alpha.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(source, image_format, exif_transpose)
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(f"the limit is {MAX_PIXELS // 1_000_000} megapixels") from error
    except MemoryError as error:
        raise media_error(MediaKind.IMAGE, Failure.TOO_LARGE, "The image needs too much memory to decode.") from error
    except Exception as error:  # a parser on hostile bytes raises anything
        raise media_error(MediaKind.IMAGE, Failure.PARSE, "The image is damaged or incomplete.") from error


def _sniff(source: BinaryIO) -> str:
    head = source.read(16)
    source.seek(0)
    for magic, image_format in _MAGIC:
        if head.startswith(magic):
            return image_format
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    raise _bad_format()


def _decode(source: BinaryIO, image_format: str, exif_transpose: bool) -> Image.Image:
    if image_format == "WEBP":
        _check_size(*_webp_size(source))
    image = Image.open(source, formats=[image_format])
    if image.format != image_format:  # a JPEG that is a container of several pictures
        raise _bad_format()
    _check_size(image.width, image.height)
    if image_format == "PNG":
        # Loading skips the checksums of pixel chunks and forgives a missing end.
        image.verify()
        source.seek(0)
        image = Image.open(source, formats=[image_format])
    image.load()
    _check_size(image.width, image.height)
    turn = _TURNS.get(_orientation(image)) if exif_transpose else None
    picture = image if image.mode == "RGB" else image.convert("RGB")
    return picture.transpose(turn) if turn is not None else picture


def _webp_size(source: BinaryIO) -> tuple[int, int]:
    """The canvas: Pillow's reader allocates it while opening, before it can be asked.

    WebP container specification: VP8X has 24-bit sizes less one, VP8L 14-bit ones, VP8 14-bit ones as they are.
    """
    head = source.read(30).ljust(30, b"\x00")
    source.seek(0)
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise media_error(MediaKind.IMAGE, Failure.PARSE, "The image has no pixels.")
    longest, shortest = max(width, height), min(width, height)
    if longest > MAX_SIDE:
        raise _too_large(f"it is {longest} pixels long and the limit is {MAX_SIDE}")
    if width * height > MAX_PIXELS:
        megapixels = width * height / 1_000_000
        raise _too_large(f"it has {megapixels:.1f} megapixels and the limit is {MAX_PIXELS // 1_000_000}")
    if longest > MAX_ASPECT * shortest:
        raise _too_large(f"one side is more than {MAX_ASPECT} times the other")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # broken metadata are no reason to refuse a picture
        return 1


def _too_large(reason: str) -> MediaError:
    return media_error(MediaKind.IMAGE, Failure.TOO_LARGE, f"The image is too large: {reason}.")


def _bad_format() -> MediaError:
    message = "The file is not an image that can be read: send PNG, JPEG, WebP, GIF, BMP or TIFF."
    return media_error(MediaKind.IMAGE, Failure.FORMAT, message)
