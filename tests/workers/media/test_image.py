"""Hostile and odd pictures, built here, against the decoder itself."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from schemas.errors import ErrorCode, MediaError
from workers.media.image import open_image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def encode(picture: Image.Image, image_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, image_format, **options)
    return file.getvalue()


def decode(content: bytes, exif_transpose: bool = True) -> np.ndarray:
    return np.asarray(open_image(io.BytesIO(content), exif_transpose))


def fails(content: bytes) -> ErrorCode:
    with pytest.raises(MediaError) as failed:
        decode(content)
    assert "0x" not in failed.value.message and "BytesIO" not in failed.value.message
    return failed.value.code


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(values)


def png(width: int, height: int, *chunks: tuple[bytes, bytes], depth: int = 8, colour: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), *chunks)
    )
    return b"\x89PNG\r\n\x1a\n" + body


def png_of_zeros(width: int, height: int, depth: int, colour: int) -> bytes:
    packer = zlib.compressobj(9)
    row = b"\x00" * (1 + (width * depth * {0: 1, 2: 3}[colour] + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return png(width, height, (b"IDAT", data), (b"IEND", b""), depth=depth, colour=colour)


@pytest.mark.parametrize("image_format", FORMATS)
def test_each_accepted_format_is_read(image_format: str) -> None:
    assert decode(encode(noise(20, 10), image_format)).shape == (10, 20, 3)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (27, 27), (200, 1), (1, 200)])
def test_small_and_thin_pictures_are_read(size: tuple[int, int]) -> None:
    assert decode(encode(noise(*size), "PNG")).shape == (size[1], size[0], 3)


def test_too_thin_is_refused() -> None:
    assert fails(encode(Image.new("RGB", (201, 1)), "PNG")) == ErrorCode.IMAGE_TOO_LARGE


def test_the_pixel_limit_is_exact() -> None:
    assert decode(png_of_zeros(8000, 5000, 1, 0)).shape == (5000, 8000, 3)
    assert fails(png_of_zeros(8000, 5001, 1, 0)) == ErrorCode.IMAGE_TOO_LARGE


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((8000, 6500), "it has 52.0 megapixels and the limit is 40"),
        ((20000, 200), "it is 20000 pixels long and the limit is 16384"),
        ((201, 1), "one side is more than 200 times the other"),
    ],
)
def test_a_refusal_says_by_how_much(size: tuple[int, int], reason: str) -> None:
    with pytest.raises(MediaError, match=f"^The image is too large: {reason}.$"):
        decode(png(*size, (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")))


def test_too_long_a_side_is_refused() -> None:
    assert fails(png_of_zeros(16385, 100, 1, 0)) == ErrorCode.IMAGE_TOO_LARGE


@pytest.mark.parametrize("size", [(30000, 30000), (13377, 13377)])
def test_a_png_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    bomb = png(*size, (b"IDAT", zlib.compress(b"\x00" * 1000)), (b"IEND", b""))
    assert fails(bomb) == ErrorCode.IMAGE_TOO_LARGE


def gif_bomb() -> bytes:
    return encode(Image.new("P", (16, 16)), "GIF").replace(struct.pack("<HH", 16, 16), struct.pack("<HH", 65535, 65535))


def jpeg_bomb() -> bytes:
    return encode(Image.new("RGB", (16, 16)), "JPEG").replace(
        struct.pack(">HH", 16, 16), struct.pack(">HH", 65500, 65500)
    )


def webp_bomb() -> bytes:
    """34 bytes of lossless WebP that claim 13000x13000."""
    content = bytearray(encode(Image.new("RGB", (16, 16)), "WEBP", lossless=True))
    at = content.index(b"VP8L") + 9
    struct.pack_into("<I", content, at, 12999 | 12999 << 14)
    return bytes(content)


def tiff_bomb() -> bytes:
    content = encode(Image.new("L", (16, 16)), "TIFF")
    for tag in (256, 257):
        content = content.replace(struct.pack("<HHII", tag, 3, 1, 16), struct.pack("<HHII", tag, 4, 1, 13000))
        content = content.replace(struct.pack("<HHII", tag, 4, 1, 16), struct.pack("<HHII", tag, 4, 1, 13000))
    return content


def bmp_bomb() -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 20000, 20000, 1, 24, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("bomb", [gif_bomb, jpeg_bomb, webp_bomb, tiff_bomb, bmp_bomb])
def test_bombs_of_other_formats_are_refused_by_their_headers(bomb: Callable[[], bytes]) -> None:
    assert fails(bomb()) == ErrorCode.IMAGE_TOO_LARGE


@pytest.mark.parametrize(
    "content",
    [
        png(2**31 - 1, 2**31 - 1),
        png(0, 0, (b"IDAT", zlib.compress(b"")), (b"IEND", b"")),
        png(10, 10, (b"zTXt", b"a\x00\x00" + zlib.compress(b"\x00" * 200_000_000, 9)), (b"IEND", b"")),
        b"II*\x00\x08\x00\x00\x00\x00\x00\x08\x00\x00\x00",
        b"II*\x00\xff\xff\xff\x7f",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"BM",
    ],
    ids=["2^31", "0x0", "zTXt", "tiff loop", "tiff offset", "jpeg", "gif", "bmp"],
)
def test_broken_headers_are_parse_errors(content: bytes) -> None:
    assert fails(content) == ErrorCode.IMAGE_PARSE_ERROR


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"])
def test_truncated_files_are_parse_errors(image_format: str, share: float) -> None:
    content = encode(noise(100, 100), image_format)
    assert fails(content[: int(len(content) * share)]) == ErrorCode.IMAGE_PARSE_ERROR


@pytest.mark.parametrize("length", [20, 60])
def test_a_few_bytes_of_a_picture_are_a_parse_error(length: int) -> None:
    assert fails(encode(noise(100, 100), "JPEG")[:length]) == ErrorCode.IMAGE_PARSE_ERROR
    assert fails(encode(noise(100, 100), "PNG")[:length]) == ErrorCode.IMAGE_PARSE_ERROR


def test_png_chunks_are_checked() -> None:
    pixels = (b"IDAT", zlib.compress(b"\x00" + b"\x01\x02\x03"))
    whole = png(1, 1, pixels, (b"IEND", b""))
    assert decode(whole).tolist() == [[[1, 2, 3]]]
    assert fails(whole[:-5] + b"\x00" + whole[-4:]) == ErrorCode.IMAGE_PARSE_ERROR
    assert fails(png(1, 1, pixels)) == ErrorCode.IMAGE_PARSE_ERROR
    assert fails(png(1, 1, (b"IEND", b""), pixels)) == ErrorCode.IMAGE_PARSE_ERROR
    at = whole.index(b"IDAT") + 4 + len(pixels[1])
    assert fails(whole[:at] + b"\x00\x00\x00\x00" + whole[at + 4 :]) == ErrorCode.IMAGE_PARSE_ERROR


@pytest.mark.parametrize(
    "content",
    [
        b"", b"x", b"\x00" * 4096, b"<!doctype html><html></html>", b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"%PDF-1.7\n", b"8BPS\x00\x01" + b"\x00" * 20,
        b"icns\x00\x00\x00\x08", b"\x00\x00\x00\x18ftypheic" + b"\x00" * 16, b"\x00\x00\x00\x18ftypavif" + b"\x00" * 16,
        b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51", b"\xd7\xcd\xc6\x9a",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        b"P6 1 1 255\n\x00\x00\x00", b"\x00\x00\x01\x00\x01\x00", b"#EXTM3U\n",
        b"\x00\x00\x00\x20ftypisom" + b"\x00" * 16,
    ],
)  # fmt: skip
def test_other_formats_never_reach_a_reader(content: bytes) -> None:
    assert fails(content) == ErrorCode.INVALID_IMAGE_FORMAT


def test_a_container_of_several_jpegs_is_refused() -> None:
    content = encode(noise(16, 16), "MPO", save_all=True, append_images=[noise(16, 16)])
    assert content.startswith(b"\xff\xd8\xff")
    assert fails(content) == ErrorCode.INVALID_IMAGE_FORMAT


@pytest.mark.parametrize("orientation", [*range(10), 65535])
def test_orientation_is_applied_only_if_asked(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(noise(12, 8), "PNG", exif=exif)
    with Image.open(io.BytesIO(content)) as picture:
        turned = np.asarray(ImageOps.exif_transpose(picture))
        plain = np.asarray(picture)
    np.testing.assert_array_equal(decode(content, exif_transpose=True), turned)
    np.testing.assert_array_equal(decode(content, exif_transpose=False), plain)


def test_broken_metadata_do_not_spoil_the_picture() -> None:
    looped = (
        b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\xff\xff\xff\x7f\x08\x00\x00\x00\x08\x00\x00\x00"
    )
    assert decode(encode(noise(16, 16), "JPEG", exif=looped)).shape == (16, 16, 3)
    assert decode(encode(noise(16, 16), "JPEG", icc_profile=b"broken" * 1000)).shape == (16, 16, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_what_pillow_makes_of_it(mode: str) -> None:
    image_format = "TIFF" if mode in ("CMYK", "F", "PA", "I") else "PNG"
    if mode in ("I;16", "I", "F"):
        picture = Image.fromarray(
            np.arange(256, dtype={"I;16": "u2", "I": "i4", "F": "f4"}[mode]).reshape(16, 16) * 200
        )
    else:
        picture = noise(16, 16, 4).convert("RGBA").convert("RGB" if mode in ("CMYK", "P") else "RGBA").convert(mode)
    content = encode(picture, image_format)
    with Image.open(io.BytesIO(content)) as opened:
        expected = np.asarray(opened.convert("RGB"))
    np.testing.assert_array_equal(decode(content), expected)


def test_alpha_is_dropped_not_blended() -> None:
    assert decode(encode(Image.new("RGBA", (1, 1), (10, 20, 30, 0)), "PNG")).tolist() == [[[10, 20, 30]]]
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([10, 20, 30])
    assert decode(encode(palette, "PNG", transparency=b"\x00")).tolist() == [[[10, 20, 30]]]


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_read(image_format: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    content = encode(frames[0], image_format, save_all=True, append_images=frames[1:], lossless=True)
    assert decode(content)[0, 0].tolist() == [255, 0, 0] if image_format != "WEBP" else decode(content)[0, 0, 0] > 250


def test_pillows_own_guards_stay_as_they_are() -> None:
    decode(encode(noise(8, 8), "PNG"))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    assert Image.MAX_IMAGE_PIXELS == 89_478_485
    assert PngImagePlugin.MAX_TEXT_CHUNK == 1 << 20
    assert "ignore" not in [entry[0] for entry in warnings.filters if entry[2] is Image.DecompressionBombWarning]


@pytest.mark.parametrize("image_format", FORMATS)
def test_flipped_bytes_give_a_picture_or_a_media_error(image_format: str) -> None:
    content = bytearray(encode(noise(40, 40), image_format))
    random = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(content)
        for at in random.integers(0, len(damaged), 8):
            damaged[at] ^= int(random.integers(1, 256))
        try:
            assert decode(bytes(damaged)).ndim == 3
        except MediaError:
            pass
