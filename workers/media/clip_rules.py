"""How large and long a clip may be, and what is said about one that is not. Pure."""

from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import MediaError
from workers.media.failures import Failure, media_error
from workers.media.types import MediaKind

MAX_SIDE, MAX_PIXELS = 4096, 4096 * 2304
MAX_DURATION_S = 600
MAX_PACKETS = 200_000  # ten minutes at more than 300 frames a second
MAX_FPS = 1000


def check_size(width: int, height: int) -> None:
    """Raises MediaError for frames that are too large."""
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        limit = f"{MAX_SIDE}x{MAX_PIXELS // MAX_SIDE}"
        message = f"The video's frames are too large: {width} by {height} pixels, and the limit is {limit}."
        raise media_error(MediaKind.VIDEO, Failure.TOO_LARGE, message)


@contextmanager
def translated_errors() -> Iterator[None]:
    """A reader's errors as ours; to be held around everything that reads from a clip."""
    try:
        yield
    except MediaError:
        raise
    except MemoryError as error:
        raise media_error(MediaKind.VIDEO, Failure.TOO_LARGE, "The video needs too much memory to decode.") from error
    except Exception as error:  # a parser on hostile bytes raises anything
        raise damaged() from error


def damaged() -> MediaError:
    return media_error(MediaKind.VIDEO, Failure.PARSE, "The video is damaged or incomplete.")


def too_long() -> MediaError:
    message = f"The video is too long: at most {MAX_DURATION_S} seconds are accepted."
    return media_error(MediaKind.VIDEO, Failure.TOO_LARGE, message)


def bad_format() -> MediaError:
    message = "The file is not a video that can be read: send MP4, MOV, WebM, MKV, AVI, GIF or animated WebP."
    return media_error(MediaKind.VIDEO, Failure.FORMAT, message)
