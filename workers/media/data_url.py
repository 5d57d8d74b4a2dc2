"""`data:` URLs: strict, canonical base64 of a picture or clip.

The worker looks at the head and passes the text on. It is decoded in the decode process: decoding megabytes of it holds
an interpreter, and in the worker's the engine would wait.
"""

import binascii

from schemas.data_url import DataUrl
from workers.media.failures import Failure, media_error
from workers.media.types import MediaKind

ANIMATIONS = ("image/gif", "image/webp")
"""What may be asked about as a clip too, under the only media types that it has."""


def base64_text(url: str | DataUrl, kind: MediaKind, max_bytes: int) -> memoryview:
    """The text behind the comma of `data:image/png;base64,....`, not yet looked at; the type must be of `kind`, or an
    animation's for a clip.

    max_bytes: of the file that it stands for. Raises MediaError.
    """
    header, comma, _ = (url if isinstance(url, str) else url.head)[:1024].partition(",")
    media_type, *parameters = header[len("data:") :].lower().split(";")
    if not comma or not parameters or parameters[-1] != "base64":
        raise media_error(kind, Failure.BASE64, f"The data URL must have the form data:{kind}/...;base64,...")
    if not media_type.startswith(f"{kind}/") and not (kind is MediaKind.VIDEO and media_type in ANIMATIONS):
        raise media_error(kind, Failure.MEDIA_TYPE, f"The data URL's media type must be {kind}/...")
    start = len(header) + 1
    if len(url) == start:
        raise media_error(kind, Failure.EMPTY, f"The {kind} is empty.")
    if (len(url) - start) // 4 * 3 - 2 > max_bytes:
        raise media_error(kind, Failure.FILE_TOO_LARGE, f"The {kind} is larger than {max_bytes >> 20} MiB.")
    if isinstance(url, DataUrl):
        if start != len(url.head):
            raise _not_base64(kind)  # A comma in the head: the text begins there.
        return memoryview(url.text.data)
    try:
        return memoryview(url.encode("ascii"))[start:]
    except UnicodeEncodeError:
        raise _not_base64(kind) from None


def decode_base64(text: bytes | memoryview, kind: MediaKind) -> bytes:
    """The file that the text stands for. No white space, no missing padding, no stray bits. Raises MediaError."""
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise _not_base64(kind) from None
    tail = data[(len(data) - 1) // 3 * 3 :]
    if not data or binascii.b2a_base64(tail, newline=False) != bytes(memoryview(text)[-4:]):
        raise _not_base64(kind)
    return data


def _not_base64(kind: MediaKind) -> Exception:
    return media_error(kind, Failure.BASE64, f"The {kind}'s base64 is not valid.")
