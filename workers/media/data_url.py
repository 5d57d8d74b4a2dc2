"""`data:` URLs: strict, canonical base64 of a picture or clip, decoded in steps so that no event loop waits for it."""

import asyncio
import binascii

from workers.media.failures import Failure, media_error
from workers.media.types import MediaKind

# Decoding holds the interpreter for a millisecond or so a step. A multiple of 4.
_STEP_CHARS = 1 << 20


async def decode_data_url(text: str, kind: MediaKind, max_bytes: int) -> bytes:
    """The bytes in `data:image/png;base64,....`; the type must be of `kind`, no white space, no missing padding.

    Raises MediaError.
    """
    header, comma, _ = text[:1024].partition(",")
    media_type, *parameters = header[len("data:") :].lower().split(";")
    if not comma or not parameters or parameters[-1] != "base64":
        raise media_error(kind, Failure.BASE64, f"The data URL must have the form data:{kind}/...;base64,...")
    if not media_type.startswith(f"{kind}/"):
        raise media_error(kind, Failure.MEDIA_TYPE, f"The data URL's media type must be {kind}/...")
    start = len(header) + 1
    size = (len(text) - start) // 4 * 3
    if size == 0 and len(text) == start:
        raise media_error(kind, Failure.EMPTY, f"The {kind} is empty.")
    if size - 2 > max_bytes:
        raise media_error(kind, Failure.FILE_TOO_LARGE, f"The {kind} is larger than {max_bytes >> 20} MiB.")
    pieces = []
    for at in range(start, len(text), _STEP_CHARS):
        pieces.append(_decode_step(text[at : at + _STEP_CHARS], at + _STEP_CHARS >= len(text), kind))
        await asyncio.sleep(0)
    return b"".join(pieces)


def _decode_step(chars: str, is_last: bool, kind: MediaKind) -> bytes:
    try:
        data = binascii.a2b_base64(chars, strict_mode=True)
    except ValueError:
        data = b""
    # Canonical: nothing missing, no stray bits in the last character, no padding before the end.
    tail = data[(len(data) - 1) // 3 * 3 :]
    is_canonical = binascii.b2a_base64(tail, newline=False).decode() == chars[-4:]
    if not is_canonical or not (is_last or len(data) * 4 == len(chars) * 3):
        raise media_error(kind, Failure.BASE64, f"The {kind}'s base64 is not valid.")
    return data
