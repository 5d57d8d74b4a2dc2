"""The objects of /v1/files, and what its lists and the batches' are asked with."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import Field

from schemas.errors import ErrorCode, RequestError
from schemas.openai.strict import StrictModel, printable, validate

HOUR_S = 3600
DAY_S = 24 * HOUR_S

Query = TypeVar("Query", bound="ListQuery")


class FileObject(msgspec.Struct, frozen=True, kw_only=True):
    """What a client sees of a file. `filename` is the client's own label."""

    id: str
    object: str = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: str = "processed"
    status_details: None = None


class FileDeleted(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of DELETE /v1/files/{file_id}."""

    id: str
    object: str = "file"
    deleted: bool = True


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a list. `last_id` is the `after` of the next one."""

    object: str = "list"
    data: list[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ExpiresAfter(StrictModel):
    """When a file is to vanish, counted from when it was made."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=HOUR_S, le=30 * DAY_S)]


class UploadFields(StrictModel):
    """The fields of an upload's form beside the file itself. No other purpose has a use here."""

    purpose: Literal["batch"]
    expires_after: ExpiresAfter | None = None


class ListQuery(StrictModel):
    """Which part of a list."""

    limit: int
    after: Annotated[str, Field(min_length=1, max_length=128)] | None = None


class FilesQuery(ListQuery):
    """GET /v1/files."""

    limit: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    order: Literal["asc", "desc"] = "desc"
    purpose: Annotated[str, Field(max_length=64)] | None = None


def parse_query(model: type[Query], parameters: Iterable[tuple[str, str]]) -> Query:
    """The parameters of a URL as `model`. Raises RequestError naming the parameter."""
    values: dict[str, object] = {}
    for name, value in parameters:
        if name in values:
            message = f"The parameter '{printable(name)}' is given twice."
            raise RequestError(ErrorCode.INVALID_VALUE, message, printable(name))
        values[name] = number_in(value) if name == "limit" else value
    return validate(model, values)


def number_in(text: str) -> int | str:
    """The number that a form or a URL spells, or the text, for whoever checks types."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text
