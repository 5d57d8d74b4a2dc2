"""A wire request becomes a job. Pure but for ids, seeds and the time; each refusal names its field."""

import secrets
import time
from collections.abc import Sequence

from schemas.control import ModelCard
from schemas.errors import ErrorCode, RequestError
from schemas.jobs import ChatJob, CompletionJob, Message, Tool, ToolChoice
from schemas.openai.chat import ChatCompletionRequest
from schemas.openai.completion import (
    DEFAULT_MAX_TOKENS,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
    prompts_of,
    token_ids,
)
from schemas.openai.content import ChatMessage
from schemas.openai.generation import GenerationRequest
from schemas.openai.media import media_options
from schemas.openai.structured import grammar_of
from schemas.openai.tools import FunctionTool, job_tool_choice, job_tools
from schemas.sampling import SamplingParams
from server.messages import check_media, job_messages, num_chars

MAX_BYTES_PER_TOKEN = 256
"""No vocabulary has longer tokens, so that text of more bytes than this times the context cannot fit: it is refused
here, before a tokenizer has to read it."""
SEED_BITS = 64


def new_job_id() -> str:
    """128 random bits in hex; never the client's choice."""
    return secrets.token_hex(16)


def unix_time_s() -> int:
    """The time of a job's `created`."""
    return int(time.time())


class JobMaker:
    """Turns requests into jobs within the server's limits. priority: of all of them, whatever the requests say."""

    def __init__(self, max_images: int, max_videos: int, timeout_s: float, priority: int | None = None) -> None:
        self._max_images = max_images
        self._max_videos = max_videos
        self._timeout_s = timeout_s
        self._priority = priority

    def chat_job(self, request: ChatCompletionRequest, tenant: str, card: ModelCard | None) -> ChatJob:
        """The job of a request. `card` is None while the model's first worker is yet to come. Raises RequestError."""
        tools = request.tools or []
        choice = job_tool_choice(request.tool_choice, request.parallel_tool_calls, tools)
        messages, offered = self._prompt(request.messages, tools, card)
        return ChatJob(
            job_id=new_job_id(),
            model=request.model,
            messages=messages,
            sampling=chat_sampling(request),
            tools=offered if choice else (),
            tool_choice=choice or ToolChoice(),
            media=media_options(request.mm_processor_kwargs, request.media_io_kwargs),
            n=request.n or 1,
            priority=self._priority_of(request),
            tenant=tenant,
            cache_salt=request.cache_salt or "",
            add_generation_prompt=request.add_generation_prompt is not False,
            return_token_ids=bool(request.return_token_ids),
            timeout_s=self._timeout_s,
            created=unix_time_s(),
        )

    def completion_jobs(
        self, request: CompletionRequest, tenant: str, card: ModelCard | None
    ) -> tuple[CompletionJob, ...]:
        """A job for each prompt, in their order. Raises RequestError."""
        prompts = prompts_of(request.prompt)
        for prompt in prompts:
            if isinstance(prompt, str) and card is not None:
                _check_length(len(prompt), card.max_model_len, "prompt")
        created = unix_time_s()
        return tuple(
            CompletionJob(
                job_id=new_job_id(),
                model=request.model,
                prompt=prompt,
                sampling=completion_sampling(request),
                n=request.n or 1,
                priority=self._priority_of(request),
                tenant=tenant,
                cache_salt=request.cache_salt or "",
                add_special_tokens=request.add_special_tokens is not False,
                echo=bool(request.echo),
                return_token_ids=bool(request.return_token_ids),
                timeout_s=self._timeout_s,
                created=created,
            )
            for prompt in prompts
        )

    def tokenize_job(self, request: TokenizeRequest, tenant: str, card: ModelCard | None) -> ChatJob | CompletionJob:
        """A job that generates nothing and tells the prompt's ids. Raises RequestError."""
        return_token_texts = bool(request.return_token_strs)
        if request.prompt is not None:
            if card is not None:
                _check_length(len(request.prompt), card.max_model_len, "prompt")
            return CompletionJob(
                job_id=new_job_id(),
                model=request.model,
                prompt=request.prompt,
                sampling=SamplingParams(seed=0),
                n=0,
                tenant=tenant,
                add_special_tokens=request.add_special_tokens is not False,
                return_token_ids=True,
                return_token_texts=return_token_texts,
                timeout_s=self._timeout_s,
            )
        messages, tools = self._prompt(request.messages or (), request.tools or (), card)
        return ChatJob(
            job_id=new_job_id(),
            model=request.model,
            messages=messages,
            sampling=SamplingParams(seed=0),
            tools=tools,
            media=media_options(request.mm_processor_kwargs, request.media_io_kwargs),
            n=0,
            tenant=tenant,
            add_generation_prompt=request.add_generation_prompt is not False,
            return_token_ids=True,
            return_token_texts=return_token_texts,
            timeout_s=self._timeout_s,
        )

    def detokenize_job(self, request: DetokenizeRequest, tenant: str) -> CompletionJob:
        """A job that generates nothing and tells the prompt's text. Raises RequestError."""
        return CompletionJob(
            job_id=new_job_id(),
            model=request.model,
            prompt=token_ids(request.tokens, "tokens"),
            sampling=SamplingParams(seed=0),
            n=0,
            tenant=tenant,
            echo=True,
            timeout_s=self._timeout_s,
        )

    def _priority_of(self, request: GenerationRequest) -> int:
        return (request.priority or 0) if self._priority is None else self._priority

    def _prompt(
        self, messages: Sequence[ChatMessage], tools: Sequence[FunctionTool], card: ModelCard | None
    ) -> tuple[tuple[Message, ...], tuple[Tool, ...]]:
        """What a chat's prompt is made of, within the limits. Raises RequestError."""
        found, offered = job_messages(messages), job_tools(tools)
        check_media(found, self._max_images, self._max_videos)
        if card is not None:
            _check_length(num_chars(found, offered), card.max_model_len, "messages")
        return found, offered


def chat_sampling(request: ChatCompletionRequest) -> SamplingParams:
    """The sampling that a chat asks for."""
    max_tokens = request.max_completion_tokens or request.max_tokens
    return _sampling(request, max_tokens, request.top_logprobs if request.logprobs else None, bool(request.logprobs))


def completion_sampling(request: CompletionRequest) -> SamplingParams:
    """The sampling that a completion asks for, by its own default length. Without a seed each call draws its own."""
    max_tokens = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    return _sampling(request, max_tokens, request.logprobs, request.logprobs is not None)


def _sampling(
    request: GenerationRequest, max_tokens: int | None, top_logprobs: int | None, logprobs: bool
) -> SamplingParams:
    """What is absent stays None, for the model's own default."""
    seed = secrets.randbits(SEED_BITS) if request.seed is None else request.seed % 2**SEED_BITS
    return SamplingParams(
        seed=seed,
        max_tokens=max_tokens,
        min_tokens=request.min_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=0 if request.top_k == -1 else request.top_k,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        logit_bias={int(token_id): bias for token_id, bias in (request.logit_bias or {}).items()},
        bad_words=tuple(request.bad_words or ()),
        stop=tuple(request.stop or ()),
        stop_token_ids=tuple(request.stop_token_ids or ()),
        include_stop_str_in_output=bool(request.include_stop_str_in_output),
        ignore_eos=bool(request.ignore_eos),
        skip_special_tokens=request.skip_special_tokens is not False,
        logprobs=logprobs,
        top_logprobs=top_logprobs or 0,
        prompt_logprobs=request.prompt_logprobs,
        grammar=grammar_of(request),
    )


def _check_length(num_chars: int, max_model_len: int, param: str) -> None:
    # A character has at least one byte, so this never refuses what would fit.
    if num_chars > max_model_len * MAX_BYTES_PER_TOKEN:
        message = f"The model's context is {max_model_len} tokens; the {param} have {num_chars} characters."
        raise RequestError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, param)
