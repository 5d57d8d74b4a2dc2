"""`mm_processor_kwargs` and `media_io_kwargs`: how a request wants its pictures and clips prepared."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from schemas.errors import ErrorCode, RequestError
from schemas.jobs import MediaOptions
from schemas.openai.strict import StrictModel, printable

MAX_FAMILY_OPTIONS = 16
MAX_NAME_CHARS = 64
MAX_OPTION_CHARS = 4096
MAX_OPTION_INT = 2**53

MAX_LIST_ITEMS = 16

Scalar = bool | int | float | str | None
Patches = Annotated[int, Field(ge=1, le=1024)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]


class MmProcessorKwargs(StrictModel):
    """Tiling options that several families know; names of one family only are kept: scalars, short lists of numbers."""

    model_config = ConfigDict(extra="allow")

    max_dynamic_patch: Patches | None = None
    min_dynamic_patch: Patches | None = None
    use_thumbnail: bool | None = None
    fast_resize: bool | None = None


class VideoIo(StrictModel):
    """Which frames of a clip are looked at. Times in seconds."""

    num_frames: Annotated[int, Field(ge=1, le=65536)] | None = None
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    start: Seconds | None = None
    end: Seconds | None = None


class ImageIo(StrictModel):
    """How a picture file is read."""

    exif_transpose: bool | None = None


class MediaIoKwargs(StrictModel):
    """Reading options by kind of medium."""

    video: VideoIo | None = None
    image: ImageIo | None = None


def media_options(processor: MmProcessorKwargs | None, reading: MediaIoKwargs | None) -> MediaOptions:
    """The two objects as the one that a worker reads. Raises RequestError for what fits in neither."""
    processor = processor or MmProcessorKwargs()
    reading = reading or MediaIoKwargs()
    video = reading.video or VideoIo()
    image = reading.image or ImageIo()
    if processor.min_dynamic_patch and processor.max_dynamic_patch:
        if processor.min_dynamic_patch > processor.max_dynamic_patch:
            raise _invalid("mm_processor_kwargs.min_dynamic_patch", "it is above 'max_dynamic_patch'")
    if video.start is not None and video.end is not None and video.end <= video.start:
        raise _invalid("media_io_kwargs.video.end", "it is not after 'start'")
    return MediaOptions(
        max_dynamic_patch=processor.max_dynamic_patch,
        min_dynamic_patch=processor.min_dynamic_patch,
        use_thumbnail=processor.use_thumbnail,
        fast_resize=processor.fast_resize,
        exif_transpose=image.exif_transpose is not False,
        num_frames=video.num_frames,
        fps=video.fps,
        start_s=video.start,
        end_s=video.end,
        family=_family(processor.model_extra or {}),
    )


def _family(extra: dict[str, Any]) -> dict[str, Scalar | tuple[int, ...]]:
    if len(extra) > MAX_FAMILY_OPTIONS:
        raise _invalid("mm_processor_kwargs", f"more than {MAX_FAMILY_OPTIONS} names that are not known to all models")
    for name, value in extra.items():
        param = f"mm_processor_kwargs.{printable(name)}"
        if not name.isidentifier() or len(name) > MAX_NAME_CHARS:
            raise RequestError(ErrorCode.UNKNOWN_PARAMETER, f"Unknown parameter: '{param}'.", param)
        if isinstance(value, list):
            _check_list(param, value)
        elif not isinstance(value, Scalar):
            raise RequestError(ErrorCode.INVALID_TYPE, f"Invalid type for '{param}': Input should be a scalar.", param)
        if isinstance(value, str) and len(value) > MAX_OPTION_CHARS:
            raise _invalid(param, f"it has more than {MAX_OPTION_CHARS} characters")
        if isinstance(value, int) and abs(value) > MAX_OPTION_INT:
            raise _invalid(param, "it is too large")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in extra.items()}


def _check_list(param: str, items: list[Any]) -> None:
    """A grid, for example."""
    if len(items) > MAX_LIST_ITEMS:
        raise _invalid(param, f"it has more than {MAX_LIST_ITEMS} items")
    if not all(isinstance(item, int) and not isinstance(item, bool) and abs(item) <= MAX_OPTION_INT for item in items):
        message = f"Invalid type for '{param}': Input should be a scalar or a list of whole numbers."
        raise RequestError(ErrorCode.INVALID_TYPE, message, param)


def _invalid(param: str, reason: str) -> RequestError:
    return RequestError(ErrorCode.INVALID_VALUE, f"Invalid value for '{param}': {reason}.", param)
