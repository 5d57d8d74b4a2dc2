"""The objects of /v1/batches, the lines of a batch's input, and those of its output."""

from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field

from schemas.openai.files import ExpiresAfter, ListQuery
from schemas.openai.strict import StrictModel

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


class BatchRequest(StrictModel):
    """The body of POST /v1/batches."""

    input_file_id: Annotated[str, Field(min_length=1, max_length=128)]
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/responses"]
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchesQuery(ListQuery):
    """GET /v1/batches."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20


class InputLine(StrictModel):
    """One line of an input file. Its body is checked where it is served, like any request's."""

    custom_id: Annotated[str, Field(min_length=1, max_length=512)]
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


class BatchError(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with an input file; `line` counts from 1."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class BatchErrors(msgspec.Struct, frozen=True, kw_only=True):
    """The list of them."""

    object: str = "list"
    data: list[BatchError]


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many lines there are, have an answer, have an error."""

    total: int
    completed: int
    failed: int


class InputTokensDetails(msgspec.Struct, frozen=True):
    """Of the input tokens: how many came from the prefix cache."""

    cached_tokens: int


class OutputTokensDetails(msgspec.Struct, frozen=True):
    """Of the output tokens: how many were spent on reasoning; none here."""

    reasoning_tokens: int = 0


class BatchUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts over all lines with an answer."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What a client sees of a batch. Times are Unix seconds."""

    id: str
    object: str = "batch"
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage | None
    metadata: dict[str, str] | None


class LineResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What a live request with this body would have been answered; `body` is JSON already."""

    status_code: int
    request_id: str
    body: msgspec.Raw


class LineError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a line has no response."""

    code: str
    message: str


class OutputLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an output or an error file."""

    id: str
    custom_id: str
    response: LineResponse | None
    error: LineError | None
