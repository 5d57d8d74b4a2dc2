"""Whether a file is a picture or a clip, by its media type or by its name."""

from typing import Literal
from urllib.parse import urlsplit

MAX_TYPE_CHARS = 128
Kind = Literal["image", "video"]

_TYPES: dict[str, str] = {
    "avi": "video/x-msvideo",
    "bmp": "image/bmp",
    "gif": "image/gif",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "m4v": "video/mp4",
    "mkv": "video/x-matroska",
    "mov": "video/quicktime",
    "mp4": "video/mp4",
    "png": "image/png",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "webm": "video/webm",
    "webp": "image/webp",
}
"""Extension -> media type. GIF and WebP count as pictures."""


def kind_of_type(media_type: str) -> Kind | None:
    """By a media type, such as that of a data URL."""
    family = media_type.strip().lower().partition("/")[0]
    if family == "image":
        return "image"
    return "video" if family == "video" else None


def type_of_name(name: str) -> str | None:
    """The media type that a file's name stands for."""
    _, dot, extension = name.rpartition(".")
    return _TYPES.get(extension.lower()) if dot else None


def kind_of_url(url: str) -> Kind | None:
    """By a data URL's media type, or by the last part of any other URL's path."""
    if url[:5].lower() == "data:":
        return kind_of_type(url[5:MAX_TYPE_CHARS])
    try:
        media_type = type_of_name(urlsplit(url).path)
    except ValueError:
        return None
    return kind_of_type(media_type) if media_type else None
