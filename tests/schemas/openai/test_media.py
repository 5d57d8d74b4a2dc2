"""A family's own options on their way from a request's body to the worker."""

from typing import Any

import pytest

from schemas.errors import ErrorCode, RequestError
from schemas.openai.media import MmProcessorKwargs, media_options


def family_options(options: dict[str, Any]) -> dict[str, Any]:
    return media_options(MmProcessorKwargs.model_validate(options), None).family


def test_scalars_and_short_lists_of_whole_numbers_arrive_as_they_are():
    asked = {"hd_num": 4, "padding": False, "fix_ratio": [2, 1], "instruction": "look", "fix": None}
    assert family_options(asked) == asked | {"fix_ratio": (2, 1)}


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ([2, "1"], ErrorCode.INVALID_TYPE),
        ([2.0, 1], ErrorCode.INVALID_TYPE),
        ([True, 1], ErrorCode.INVALID_TYPE),
        ([[2, 1]], ErrorCode.INVALID_TYPE),
        ([2**60], ErrorCode.INVALID_TYPE),
        ({"a": 1}, ErrorCode.INVALID_TYPE),
        ([1] * 17, ErrorCode.INVALID_VALUE),
        ("x" * 4097, ErrorCode.INVALID_VALUE),
    ],
    ids=lambda value: str(value)[:20],
)
def test_anything_else_is_refused_by_its_path(value: Any, code: ErrorCode):
    with pytest.raises(RequestError) as refusal:
        family_options({"fix_ratio": value})
    assert (refusal.value.param, refusal.value.code) == ("mm_processor_kwargs.fix_ratio", code)
