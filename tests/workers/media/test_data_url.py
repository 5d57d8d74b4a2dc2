import base64

import pytest

from schemas.data_url import DataUrl, LongText
from schemas.errors import ErrorCode, MediaError
from workers.media.data_url import base64_text, decode_base64
from workers.media.types import MediaKind

LIMIT_BYTES = 4 << 20


def decode(url: str, kind: MediaKind = MediaKind.IMAGE) -> bytes:
    return decode_base64(base64_text(url, kind, LIMIT_BYTES), kind)


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 786_431, 786_432, 786_433, 3_000_000, LIMIT_BYTES])
def test_content_comes_back_whole(size: int) -> None:
    content = (bytes(range(256)) * (size // 256 + 1))[:size]
    assert decode("data:image/png;base64," + base64.b64encode(content).decode()) == content


@pytest.mark.parametrize("header", ["DATA:Image/PNG;Base64", "data:image/png;charset=x;base64"])
def test_case_and_parameters_do_not_matter(header: str) -> None:
    assert decode(header + ",QUJD") == b"ABC"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("data:", ErrorCode.INVALID_BASE64_IMAGE),
        ("data:image/png,rawbytes", ErrorCode.INVALID_BASE64_IMAGE),
        ("data:image/png;base64", ErrorCode.INVALID_BASE64_IMAGE),
        ("data:image/png;base64,", ErrorCode.EMPTY_IMAGE_FILE),
        ("data:text/html;base64,QUJD", ErrorCode.UNSUPPORTED_IMAGE_MEDIA_TYPE),
        ("data:;base64,QUJD", ErrorCode.UNSUPPORTED_IMAGE_MEDIA_TYPE),
        ("data:video/mp4;base64,QUJD", ErrorCode.UNSUPPORTED_IMAGE_MEDIA_TYPE),
        ("data:image/png;base64,QU JD", ErrorCode.INVALID_BASE64_IMAGE),
        ("data:image/png;base64,QUJD\n", ErrorCode.INVALID_BASE64_IMAGE),
        ("data:image/png;base64,__-_", ErrorCode.INVALID_BASE64_IMAGE),
        ("data:image/png;base64,QUI", ErrorCode.INVALID_BASE64_IMAGE),
        ("data:image/png;base64,QUJDR", ErrorCode.INVALID_BASE64_IMAGE),
        ("data:image/png;base64,QUJ=", ErrorCode.INVALID_BASE64_IMAGE),
        ("data:image/png;base64,QQ==QUJD", ErrorCode.INVALID_BASE64_IMAGE),
        ("data:image/png;base64,====", ErrorCode.INVALID_BASE64_IMAGE),
        ("data:image/png;base64,Q\x00U\x00", ErrorCode.INVALID_BASE64_IMAGE),
        ("data:image/png;base64,ＱＵＪＤ", ErrorCode.INVALID_BASE64_IMAGE),
        ("data:image/png;base64," + "A" * (8 << 20), ErrorCode.IMAGE_FILE_TOO_LARGE),
        ("data:image/png;base64," + "A" * ((1 << 20) - 2) + "==" + "QUJD", ErrorCode.INVALID_BASE64_IMAGE),
    ],
)  # fmt: skip
def test_anything_not_canonical_is_refused(text: str, code: ErrorCode) -> None:
    with pytest.raises(MediaError) as failed:
        decode(text)
    assert failed.value.code == code


def test_a_url_held_in_two_pieces_is_read_like_one() -> None:
    text = b"QUJD" * 100_000
    for buffer in (text, bytearray(text), memoryview(text)):
        assert base64_text(DataUrl("data:image/png;base64,", LongText(buffer)), MediaKind.IMAGE, LIMIT_BYTES) == text
    for head, size, code in (
        ("data:image/png,", 4, ErrorCode.INVALID_BASE64_IMAGE),
        ("data:image/png;base64", 4, ErrorCode.INVALID_BASE64_IMAGE),
        ("data:image/png;base64,QUJD,", 4, ErrorCode.INVALID_BASE64_IMAGE),
        ("data:image/png;base64,", 0, ErrorCode.EMPTY_IMAGE_FILE),
        ("data:text/html;base64,", 4, ErrorCode.UNSUPPORTED_IMAGE_MEDIA_TYPE),
        ("data:image/png;base64,", LIMIT_BYTES // 3 * 4 + 8, ErrorCode.IMAGE_FILE_TOO_LARGE),
    ):
        with pytest.raises(MediaError) as failed:
            base64_text(DataUrl(head, LongText(b"A" * size)), MediaKind.IMAGE, LIMIT_BYTES)
        assert failed.value.code == code


def test_codes_follow_the_kind() -> None:
    with pytest.raises(MediaError) as failed:
        decode("data:image/png;base64,QUJD", MediaKind.VIDEO)
    assert failed.value.code == ErrorCode.UNSUPPORTED_VIDEO_MEDIA_TYPE


@pytest.mark.parametrize("media_type", ["image/gif", "image/webp"])
def test_an_animation_may_be_sent_as_a_clip_under_the_type_it_has(media_type: str) -> None:
    assert decode(f"data:{media_type};base64,QUJD", MediaKind.VIDEO) == b"ABC"
