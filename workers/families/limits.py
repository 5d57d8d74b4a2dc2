"""Checks of request options that several families share."""

from schemas.errors import ErrorCode, RequestError


def within(param: str, asked: int | None, ceiling: int) -> int:
    """What was asked for, or the ceiling. Raises RequestError when that is more than the server allows."""
    if asked is None:
        return ceiling
    if not 1 <= asked <= ceiling:
        name = param.rpartition(".")[2]
        raise RequestError(ErrorCode.INVALID_VALUE, f"{name} is {asked}; this server allows 1 to {ceiling}.", param)
    return asked


def invalid_option(name: str, requirement: str) -> RequestError:
    """The error for a family's own option that has no meaning as it stands."""
    return RequestError(ErrorCode.INVALID_VALUE, f"{name} must be {requirement}.", f"mm_processor_kwargs.{name}")
