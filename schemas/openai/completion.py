"""The bodies of POST /v1/completions, /v1/tokenize and /v1/detokenize."""

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from schemas.errors import ErrorCode, RequestError
from schemas.openai.chat import MAX_MESSAGES
from schemas.openai.content import ChatMessage
from schemas.openai.generation import (
    INT32_MAX,
    GenerationRequest,
    check_stream_options,
    conflict,
)
from schemas.openai.media import MediaIoKwargs, MmProcessorKwargs
from schemas.openai.parameters import without_unsupported
from schemas.openai.strict import StrictModel, validate
from schemas.openai.tools import Tools

MAX_PROMPTS = 64
DEFAULT_MAX_TOKENS = 16

Prompt = str | tuple[int, ...]

_TEXT = {"type": "string"}
_TOKEN_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": INT32_MAX}}
_PROMPTS = {"type": "array", "items": {"anyOf": [_TEXT, _TOKEN_IDS]}, "minItems": 1, "maxItems": MAX_PROMPTS}


class CompletionRequest(GenerationRequest):
    """A request to go on from bare prompts. `prompt` is read by `prompts_of`: a union would name no single fault."""

    prompt: Annotated[Any, WithJsonSchema({"anyOf": [_TEXT, {**_TOKEN_IDS, "minItems": 1}, _PROMPTS]})]
    max_tokens: Annotated[int, Field(ge=0, le=INT32_MAX)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    add_special_tokens: bool | None = None


class TokenizeRequest(StrictModel):
    """A request for the token ids of a text, or of a conversation with its media."""

    model: Annotated[str, Field(min_length=1)]
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    tools: Tools | None = None
    return_token_strs: bool | None = None
    mm_processor_kwargs: MmProcessorKwargs | None = None
    media_io_kwargs: MediaIoKwargs | None = None


class DetokenizeRequest(StrictModel):
    """A request for the text of token ids."""

    model: Annotated[str, Field(min_length=1)]
    tokens: Annotated[Any, WithJsonSchema(_TOKEN_IDS)]


def parse_completion_request(body: object) -> CompletionRequest:
    """Decoded JSON as a request whose fields agree with each other. Raises RequestError naming the field."""
    supported = without_unsupported(body, {"echo"}) if isinstance(body, dict) else body
    request = validate(CompletionRequest, supported)
    check_stream_options(request)
    if request.max_tokens == 0 and not request.echo and request.prompt_logprobs is None:
        raise conflict("max_tokens", "it may be 0 only with 'echo' or 'prompt_logprobs'")
    return request


def parse_tokenize_request(body: object) -> TokenizeRequest:
    """Decoded JSON as a request for one prompt. Raises RequestError naming the field."""
    request = validate(TokenizeRequest, body)
    if (request.prompt is None) == (request.messages is None):
        raise conflict("prompt", "give either 'prompt' or 'messages'")
    return request


def prompts_of(value: object) -> list[Prompt]:
    """`prompt` as OpenAI takes it: a text, token ids, or a list of either. Raises RequestError."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and type(value[0]) is int:
        return [token_ids(value, "prompt")]
    if not isinstance(value, list) or not value:
        raise _wrong_type("prompt", "a string, a list of token ids, or a list of either")
    if len(value) > MAX_PROMPTS:
        raise conflict("prompt", f"at most {MAX_PROMPTS} prompts are accepted")
    return [one if isinstance(one, str) else token_ids(one, f"prompt.{at}") for at, one in enumerate(value)]


def token_ids(value: object, param: str) -> tuple[int, ...]:
    """A list of token ids. Raises RequestError."""
    if not isinstance(value, list) or not all(type(one) is int for one in value):
        raise _wrong_type(param, "a list of token ids")
    if not all(0 <= one <= INT32_MAX for one in value):
        raise conflict(param, f"token ids are 0 to {INT32_MAX}")
    return tuple(value)


def _wrong_type(param: str, expected: str) -> RequestError:
    return RequestError(ErrorCode.INVALID_TYPE, f"Invalid type for '{param}': should be {expected}.", param)
