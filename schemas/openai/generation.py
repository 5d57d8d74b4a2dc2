"""What requests that generate text have in common: choices, streaming, sampling, and the extensions of this server."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from schemas.errors import ErrorCode, RequestError
from schemas.openai.strict import StrictModel
from schemas.openai.structured import StructuredRequest

MAX_CHOICES = 8
INT32_MAX = 2**31 - 1

TokenCount = Annotated[int, Field(ge=1, le=INT32_MAX)]
TokenId = Annotated[int, Field(ge=0, le=INT32_MAX)]
TokenIdKey = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,9})$")]
Penalty = Annotated[float, Field(ge=-2, le=2)]
BadWord = Annotated[str, Field(max_length=256, pattern="[^ ]")]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
Label = Annotated[str, Field(max_length=1024)]


def _as_list(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


StopStrings = Annotated[list[StopString], Field(fail_fast=True, max_length=4)]
Stop = Annotated[StopStrings, BeforeValidator(_as_list, json_schema_input_type=StopString | StopStrings)]
LogitBias = Annotated[
    dict[TokenIdKey, Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=1024, json_schema_extra={"additionalProperties": False}),
]


class StreamOptions(StrictModel):
    """What a stream carries besides deltas. `include_obfuscation` is accepted without effect."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class GenerationRequest(StructuredRequest):
    """Null always means: as if absent."""

    model: Annotated[str, Field(min_length=1)]
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    max_tokens: TokenCount | None = None
    min_tokens: Annotated[int, Field(ge=0, le=INT32_MAX)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=INT32_MAX)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    """Taken modulo 2**64: -1 and 2**64 - 1 are one seed."""
    logit_bias: LogitBias | None = None
    bad_words: Annotated[list[BadWord], Field(fail_fast=True, max_length=128)] | None = None
    stop: Stop | None = None
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True, max_length=1024)] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None

    prompt_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Alternatives at each token of the prompt, as in vLLM."""
    return_token_ids: bool | None = None
    priority: Annotated[int, Field(ge=-INT32_MAX, le=INT32_MAX)] | None = None
    cache_salt: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    user: Label | None = None
    """OpenAI's own; changes nothing here."""


def check_stream_options(request: GenerationRequest) -> None:
    """Raises RequestError where there are options of a stream without a stream, or what a stream does not have."""
    if request.prompt_logprobs is not None and request.stream:
        raise conflict("prompt_logprobs", "a stream does not have them")
    if request.stream_options is not None and not request.stream:
        raise conflict("stream_options", "it needs 'stream' to be true")


def conflict(param: str, reason: str) -> RequestError:
    """A field that does not agree with another."""
    return RequestError(ErrorCode.INVALID_VALUE, f"Invalid value for '{param}': {reason}.", param)
