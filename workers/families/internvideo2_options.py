"""What a request may say to InternVideo2-Chat beside the common options, checked and typed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.errors import ErrorCode, RequestError
from workers.families.limits import invalid_option

MAX_SQUARES, DEFAULT_SQUARES = 12, 6
VIDEO_GRID = (2, 1)
"""The model card's `fix_ratio` for clips."""
_HD_NAMES = ("hd_num", "padding", "fix_ratio")
# image_join is another family's word for several pictures: of one medium either value is true.
_NAMES = (*_HD_NAMES, "instruction", "use_frame_msg", "image_join")

Grid = tuple[int, int]


@dataclass(frozen=True, slots=True)
class InternVideo2Options:
    """image_grid, video_grid: columns and rows of squares; None is the grid nearest to the aspect."""

    max_squares: int = DEFAULT_SQUARES
    is_padded: bool = False
    image_grid: Grid | None = None
    video_grid: Grid | None = VIDEO_GRID
    instruction: str = ""
    has_frame_note: bool = False


def parse_options(asked: Mapping[str, Any], is_hd: bool) -> InternVideo2Options:
    """Raises RequestError for an option that the checkpoint does not have, or a value that makes no sense."""
    for name in asked:
        if name not in _NAMES or (name in _HD_NAMES and not is_hd):
            message = f"This model has no option '{name}'."
            raise RequestError(ErrorCode.UNKNOWN_PARAMETER, message, f"mm_processor_kwargs.{name}")
    if asked.get("image_join", "separate") not in ("combined", "separate"):
        raise invalid_option("image_join", "'combined' or 'separate'")
    grid = _grid(asked.get("fix_ratio"))
    return InternVideo2Options(
        max_squares=_count(asked.get("hd_num", DEFAULT_SQUARES)),
        is_padded=_flag(asked, "padding"),
        image_grid=grid,
        video_grid=grid if "fix_ratio" in asked else VIDEO_GRID,
        instruction=_text(asked.get("instruction")),
        has_frame_note=_flag(asked, "use_frame_msg"),
    )


def _flag(asked: Mapping[str, Any], name: str) -> bool:
    value = asked.get(name, False)
    if not isinstance(value, bool):
        raise invalid_option(name, "true or false")
    return value


def _text(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise invalid_option("instruction", "a text")
    return value or ""


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SQUARES:
        raise invalid_option("hd_num", f"a whole number from 1 to {MAX_SQUARES}")
    return value


def _grid(value: Any) -> Grid | None:
    if value is None:
        return None
    sides = value if isinstance(value, tuple) else ()
    if len(sides) != 2 or min(sides) < 1 or sides[0] * sides[1] > MAX_SQUARES:
        raise invalid_option("fix_ratio", f"null or [columns, rows], at most {MAX_SQUARES} squares")
    return sides[0], sides[1]
