"""What the gateway answers a Responses request with. Structs, for the reason that answers.py gives."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from schemas.openai.answers import TokenLogprob


class InputTokensDetails(msgspec.Struct, frozen=True):
    """Of the input's tokens: how many came from the prefix cache, stand for pictures, stand for clips."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0
    image_tokens: int = 0
    video_tokens: int = 0


class OutputTokensDetails(msgspec.Struct, frozen=True):
    """Tokens that are no part of the output: none."""

    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct, frozen=True):
    """Token counts of a response."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class OutputText(msgspec.Struct, frozen=True, kw_only=True):
    """The text of a message, or as much as there is of it."""

    type: str = "output_text"
    text: str
    annotations: tuple[()] = ()
    logprobs: list[TokenLogprob] = []


class OutputMessage(msgspec.Struct, frozen=True, kw_only=True, tag="message"):
    """What the model says."""

    id: str
    status: str
    role: str = "assistant"
    content: tuple[OutputText, ...]


class OutputFunctionCall(msgspec.Struct, frozen=True, kw_only=True, tag="function_call"):
    """A function that the model wants called. `arguments` is JSON, or as much as there is of it."""

    id: str
    status: str
    call_id: str
    name: str
    arguments: str


OutputItem = OutputMessage | OutputFunctionCall


class ResponseError(msgspec.Struct, frozen=True):
    """Why a response failed."""

    code: str
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True):
    """Why a response ends before the model's own end."""

    reason: str


class Reasoning(msgspec.Struct, frozen=True):
    """No model here reasons apart from its answer."""

    effort: None = None
    summary: None = None


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """A response in any state. What the request left out is null, or OpenAI's default where that is what was done."""

    id: str
    object: str = "response"
    created_at: int
    status: str = "in_progress"
    background: bool = False
    completed_at: int | None = None
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: tuple[OutputItem, ...] = ()
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: Reasoning = Reasoning()
    safety_identifier: str | None
    service_tier: str = "default"
    store: bool
    temperature: float | None
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float | None
    truncation: str = "disabled"
    usage: ResponseUsage | None = None
    user: str | None
    metadata: dict[str, str]


class InputItemList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the items that a response was given."""

    object: str = "list"
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokens(msgspec.Struct, frozen=True):
    """The answer of POST /v1/responses/input_tokens."""

    input_tokens: int
    object: str = "response.input_tokens"


class DeletedResponse(msgspec.Struct, frozen=True):
    """The answer of DELETE /v1/responses/{id}."""

    id: str
    object: str = "response"
    deleted: bool = True


class StreamEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream; each type has its own few of the fields."""

    type: str
    sequence_number: int
    response: Response | UnsetType = UNSET
    output_index: int | UnsetType = UNSET
    item: OutputItem | UnsetType = UNSET
    item_id: str | UnsetType = UNSET
    content_index: int | UnsetType = UNSET
    part: OutputText | UnsetType = UNSET
    delta: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    logprobs: list[TokenLogprob] | UnsetType = UNSET
