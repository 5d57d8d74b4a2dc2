"""The body of POST /v1/chat/completions: OpenAI's parameters and the sampling and media extensions of this server."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.openai.content import ChatMessage
from schemas.openai.generation import GenerationRequest, Label, TokenCount, check_stream_options, conflict
from schemas.openai.media import MediaIoKwargs, MmProcessorKwargs
from schemas.openai.parameters import without_unsupported
from schemas.openai.strict import validate
from schemas.openai.tools import AnyToolChoice, Tools

MAX_MESSAGES = 1024


class ChatCompletionRequest(GenerationRequest):
    """A chat request. Null always means: as if absent."""

    messages: Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Tools | None = None
    tool_choice: AnyToolChoice = None
    parallel_tool_calls: bool | None = None

    add_generation_prompt: bool | None = None
    mm_processor_kwargs: MmProcessorKwargs | None = None
    media_io_kwargs: MediaIoKwargs | None = None

    # OpenAI's own that change nothing here.
    metadata: Annotated[dict[str, str], Field(max_length=64)] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_retention: Label | None = None
    safety_identifier: Label | None = None
    service_tier: Label | None = None


def parse_chat_request(body: object) -> ChatCompletionRequest:
    """Decoded JSON as a request whose fields agree with each other. Raises RequestError naming the field."""
    supported = without_unsupported(body, {"tools", "tool_choice"}) if isinstance(body, dict) else body
    request = validate(ChatCompletionRequest, supported)
    if None not in (request.max_tokens, request.max_completion_tokens):
        if request.max_tokens != request.max_completion_tokens:
            raise conflict("max_completion_tokens", "it differs from 'max_tokens'; give one of them")
    if request.top_logprobs and not request.logprobs:
        raise conflict("top_logprobs", "it needs 'logprobs' to be true")
    check_stream_options(request)
    return request
