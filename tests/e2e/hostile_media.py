"""The case lists of hostile URLs, pictures and clips as requests see them: name, the part's URL, fitting codes."""

import base64
import io
import zlib
from dataclasses import dataclass

from PIL import Image

from tests.workers.media.clips import animation, audio_only, clip, forge, playlists, repeated
from tests.workers.media.test_image import (
    bmp_bomb,
    encode,
    gif_bomb,
    jpeg_bomb,
    noise,
    png,
    png_of_zeros,
    tiff_bomb,
    webp_bomb,
)

URLS = (
    "", "/etc/passwd", "../x", "file:///etc/passwd", "file://localhost/etc/passwd", "gopher://127.0.0.1:{port}/",
    "ftp://127.0.0.1:{port}/", "unix:///run/x", "concat:http://127.0.0.1:{port}/", "//127.0.0.1:{port}/",
    "http:127.0.0.1", "http:///127.0.0.1", "http://127.0.0.1:{port}/", "http://0.0.0.0:{port}/", "http://10.0.0.1/",
    "http://169.254.169.254/latest/meta-data/", "http://168.63.129.16/", "http://metadata.google.internal/",
    "http://2130706433:{port}/", "http://0x7f000001:{port}/", "http://0177.0.0.1:{port}/", "http://127.1:{port}/",
    "http://[::1]:{port}/", "http://[::]:{port}/", "http://[::ffff:127.0.0.1]:{port}/", "http://[fe80::1%25eth0]/",
    "http://good.example.com\\@127.0.0.1:{port}/", "http://127.0.0.1:{port}\\@good.example.com/",
    "http://user@127.0.0.1:{port}/", "http://127.0.0.1.:{port}/", "http://localhost:{port}/", "http://printer/",
    "http://localhost.:{port}/", "\x01http://127.0.0.1:{port}/", "http://127.0.0.1:{port}/\r\nX: y",
    "http://8.8.8.8:22/", "http://8.8.8.8:99999/", "http://8.8.8.8:80:90/", "http://a.example.com/" + "a" * 8192,
    "http://" + "a" * 300 + ".com/", "http://xn--\x80.com/", "http://１２７.0.0.1:{port}/",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One part of a request. `codes`: fitting errors; "" among them: it may be answered."""

    name: str
    kind: str
    url: str
    codes: frozenset[str]


def cases(canary_port: int) -> list[Case]:
    """All of them; those that could connect would reach the canary."""
    found = [
        Case(f"{kind} url {number}", kind, url.replace("{port}", str(canary_port)), frozenset({_url_error(kind, url)}))
        for number, url in enumerate(URLS)
        for kind in ("image", "video")
    ]
    found += [Case(name, "image", _data_url(body, "image/png"), codes) for name, body, codes in _pictures()]
    found += [Case(name, "video", _data_url(body, "video/mp4"), codes) for name, body, codes in _clips(canary_port)]
    base64_error = frozenset({"invalid_base64_image"})
    found += [
        Case("not base64", "image", "data:image/png,rawbytes", base64_error),
        Case("white space", "image", "data:image/png;base64,QU JD", base64_error),
        Case("url-safe", "image", "data:image/png;base64,__-_", base64_error),
        Case("bad padding", "image", "data:image/png;base64,QUI", base64_error),
        Case("empty", "image", "data:image/png;base64,", frozenset({"empty_image_file"})),
        Case("html", "image", "data:text/html;base64,QUJD", frozenset({"unsupported_image_media_type"})),
        Case("21 MiB", "image", _data_url(bytes(21 << 20), "image/png"), frozenset({"image_file_too_large"})),
    ]
    return found


def _pictures() -> list[tuple[str, bytes, frozenset[str]]]:
    large, broken = frozenset({"image_too_large"}), frozenset({"image_parse_error"})
    wrong, fine = frozenset({"invalid_image_format"}), frozenset({""})
    bombs = (gif_bomb, jpeg_bomb, webp_bomb, tiff_bomb, bmp_bomb)
    photo = encode(noise(200, 200), "JPEG")
    text_bomb = png(10, 10, (b"zTXt", b"a\x00\x00" + zlib.compress(bytes(100_000_000), 9)), (b"IEND", b""))
    looped = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00" + b"\xff\xff\xff\x7f\x08\x00\x00\x00" * 2
    return [
        *((bomb.__name__, bomb(), large) for bomb in bombs),
        ("1-bit 30000x30000", png(30000, 30000, (b"IDAT", zlib.compress(bytes(1000))), depth=1, colour=0), large),
        ("just over 40 MP", png_of_zeros(8000, 5001, 1, 0), large),
        ("201:1", encode(Image.new("RGB", (201, 1)), "PNG"), large),
        ("40 MP", png_of_zeros(8000, 5000, 1, 0), fine),
        ("1x1", encode(noise(1, 1), "PNG"), fine),
        ("27x27", encode(noise(27, 27), "PNG"), fine),
        ("inflating text", text_bomb, broken),
        ("2^31 squared", png(2**31 - 1, 2**31 - 1), broken),
        ("no pixels", png(0, 0), broken),
        *((f"cut at {share}", photo[: int(len(photo) * share)], broken) for share in (0.01, 0.5, 0.99)),
        ("tiff loop", b"II*\x00\x08\x00\x00\x00\x00\x00\x08\x00\x00\x00", broken),
        ("exif loop", encode(noise(64, 64), "JPEG", exif=looped), fine),
        ("broken profile", encode(noise(64, 64), "JPEG", icc_profile=b"broken" * 10_000), fine),
        ("cmyk", encode(noise(64, 64).convert("CMYK"), "JPEG"), fine),
        ("alpha", encode(noise(64, 64, 4), "PNG"), fine),
        ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://127.0.0.1/'/></svg>", wrong),
        ("eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", wrong),
        ("pdf", b"%PDF-1.7\n", wrong),
        ("avif", b"\x00\x00\x00\x18ftypavif" + bytes(16), wrong),
        ("jpeg 2000", b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(16), wrong),
        ("mpo", encode(noise(16, 16), "MPO", save_all=True, append_images=[noise(16, 16)]), wrong),
        ("nulls", bytes(4096), wrong),
        ("mp4", clip(num_frames=2), wrong),
    ]


def _clips(canary_port: int) -> list[tuple[str, bytes, frozenset[str]]]:
    large, broken = frozenset({"video_too_large"}), frozenset({"video_parse_error"})
    wrong, fine = frozenset({"invalid_video_format"}), frozenset({""})
    honest = clip(num_frames=20)
    empty = forge(honest, b"stsz", 8, 0)
    for box in (b"stts", b"stsc", b"stco"):
        empty = forge(empty, box, 4, 0)
    return [
        *((name, body, wrong | broken) for name, body in playlists(canary_port).items()),
        ("stts", forge(honest, b"stts", 8, 2**31 - 1), large | broken | fine),
        ("stsz", forge(honest, b"stsz", 8, 2**31 - 1), large | broken | fine),
        ("no moov", honest.replace(b"moov", b"xoov"), broken),
        ("half", honest[: len(honest) // 2], broken),
        ("no frames", empty, broken),
        ("audio", audio_only(), broken),
        ("too wide", clip(num_frames=2, size=(4160, 64), codec="mpeg4"), large),
        ("too long", clip(num_frames=700, size=(16, 16), fps=1, codec="mpeg4"), large),
        ("one frame", clip(num_frames=1), fine),
        ("gif", animation("GIF", 4), fine),
        ("webp", animation("WEBP", 4), fine),
        ("png", animation("PNG", 4), wrong),
        ("large", repeated(30, (4096, 2304)), fine),
    ]


def _url_error(kind: str, url: str) -> str:
    return f"invalid_{kind}_url" if url else "invalid_value"


def _data_url(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def good_picture() -> str:
    """A small one, as a URL."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "teal").save(file, "PNG")
    return _data_url(file.getvalue(), "image/png")
