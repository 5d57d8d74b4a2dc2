"""The ways in which media fail, each with an image and a video error code. Pure."""

from enum import StrEnum

from schemas.errors import ErrorCode, MediaError
from workers.media.types import MediaKind


class Failure(StrEnum):
    """The error code with a gap where the kind of medium stands."""

    URL = "invalid_{}_url"
    DOWNLOAD = "failed_to_download_{}"
    BASE64 = "invalid_base64_{}"
    EMPTY = "empty_{}_file"
    FORMAT = "invalid_{}_format"
    MEDIA_TYPE = "unsupported_{}_media_type"
    PARSE = "{}_parse_error"
    TOO_LARGE = "{}_too_large"
    FILE_TOO_LARGE = "{}_file_too_large"


def media_error(kind: MediaKind, failure: Failure, message: str, param: str | None = None) -> MediaError:
    """`message` goes to the client: what was wrong, what would be right; no address, path or library's words."""
    return MediaError(ErrorCode(failure.format(kind.value)), message, param)
