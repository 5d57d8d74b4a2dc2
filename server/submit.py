"""A wire request becomes a job. Pure but for the draw of ids and seeds; each refusal names its field."""

import secrets

from schemas.control import ModelCard
from schemas.errors import ErrorCode, RequestError
from schemas.jobs import ChatJob, CompletionJob, ImagePart, Message, Part, TextPart, VideoPart
from schemas.openai import content
from schemas.openai.chat import ChatCompletionRequest
from schemas.openai.completion import (
    DEFAULT_MAX_TOKENS,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
    prompts_of,
    token_ids,
)
from schemas.openai.generation import GenerationRequest
from schemas.openai.media import media_options
from schemas.sampling import SamplingParams

MAX_BYTES_PER_TOKEN = 256
"""No vocabulary has longer tokens, so that text of more bytes than this times the context cannot fit: it is refused
here, before a tokenizer has to read it."""
SEED_BITS = 64


def new_job_id() -> str:
    """128 random bits in hex; never the client's choice."""
    return secrets.token_hex(16)


class JobMaker:
    """Turns requests into jobs within the server's limits. priority: of all of them, whatever the requests say."""

    def __init__(self, max_images: int, max_videos: int, timeout_s: float, priority: int | None = None) -> None:
        self._max_images = max_images
        self._max_videos = max_videos
        self._timeout_s = timeout_s
        self._priority = priority

    def chat_job(self, request: ChatCompletionRequest, tenant: str, card: ModelCard | None) -> ChatJob:
        """The job of a request. `card` is None while the model's first worker is yet to come. Raises RequestError."""
        messages = tuple(_message(at, message) for at, message in enumerate(request.messages))
        self._check_media(messages)
        if card is not None:
            _check_length(_num_chars(messages), card.max_model_len, "messages")
        return ChatJob(
            job_id=new_job_id(),
            model=request.model,
            messages=messages,
            sampling=chat_sampling(request),
            media=media_options(request.mm_processor_kwargs, request.media_io_kwargs),
            n=request.n or 1,
            priority=self._priority_of(request),
            tenant=tenant,
            cache_salt=request.cache_salt or "",
            add_generation_prompt=request.add_generation_prompt is not False,
            return_token_ids=bool(request.return_token_ids),
            timeout_s=self._timeout_s,
        )

    def completion_jobs(
        self, request: CompletionRequest, tenant: str, card: ModelCard | None
    ) -> tuple[CompletionJob, ...]:
        """A job for each prompt, in their order. Raises RequestError."""
        prompts = prompts_of(request.prompt)
        for prompt in prompts:
            if isinstance(prompt, str) and card is not None:
                _check_length(len(prompt), card.max_model_len, "prompt")
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
        messages = tuple(_message(at, message) for at, message in enumerate(request.messages or ()))
        self._check_media(messages)
        if card is not None:
            _check_length(_num_chars(messages), card.max_model_len, "messages")
        return ChatJob(
            job_id=new_job_id(),
            model=request.model,
            messages=messages,
            sampling=SamplingParams(seed=0),
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

    def _check_media(self, messages: tuple[Message, ...]) -> None:
        parts = [part for message in messages for part in message.parts]
        images = [part for part in parts if isinstance(part, ImagePart)]
        videos = [part for part in parts if isinstance(part, VideoPart)]
        if len(images) > self._max_images:
            excess = images[self._max_images].param
            raise RequestError(ErrorCode.TOO_MANY_IMAGES, f"At most {self._max_images} images are accepted.", excess)
        if len(videos) > self._max_videos:
            excess = videos[self._max_videos].param
            raise RequestError(ErrorCode.TOO_MANY_VIDEOS, f"At most {self._max_videos} videos are accepted.", excess)


def chat_sampling(request: ChatCompletionRequest) -> SamplingParams:
    """The sampling that a chat asks for."""
    max_tokens = request.max_completion_tokens or request.max_tokens
    return _sampling(request, max_tokens, request.top_logprobs if request.logprobs else None, bool(request.logprobs))


def completion_sampling(request: CompletionRequest) -> SamplingParams:
    """The sampling that a completion asks for, by its own default length. Without a seed each call draws its own."""
    max_tokens = request.max_tokens or DEFAULT_MAX_TOKENS
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
        stop=tuple(request.stop or ()),
        stop_token_ids=tuple(request.stop_token_ids or ()),
        include_stop_str_in_output=bool(request.include_stop_str_in_output),
        ignore_eos=bool(request.ignore_eos),
        skip_special_tokens=request.skip_special_tokens is not False,
        logprobs=logprobs,
        top_logprobs=top_logprobs or 0,
    )


def _message(at: int, message: content.ChatMessage) -> Message:
    param = f"messages.{at}"
    _refuse_tools(param, message)
    if message.content is None:
        if message.role != "assistant":
            raise RequestError(
                ErrorCode.MISSING_PARAMETER, f"Missing required parameter: '{param}.content'.", f"{param}.content"
            )
        return Message(role=message.role, parts=())
    parts = tuple(_part(f"{param}.content.{index}", part) for index, part in enumerate(message.content))
    if message.role != "user":
        medium = next((part for part in parts if not isinstance(part, TextPart)), None)
        if medium is not None:
            raise RequestError(
                ErrorCode.INVALID_VALUE, "Only messages of the role 'user' may carry images or videos.", medium.param
            )
    elif all(isinstance(part, TextPart) and not part.text for part in parts):
        raise RequestError(ErrorCode.INVALID_VALUE, f"'{param}.content' is empty.", f"{param}.content")
    return Message(role=message.role, parts=parts)


def _refuse_tools(param: str, message: content.ChatMessage) -> None:
    for name in ("tool_calls", "function_call", "audio"):
        if getattr(message, name):
            path = f"{param}.{name}"
            raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, f"Unsupported parameter: '{path}'.", path)
    if message.role == "tool":
        reason = "a tool message answers a tool call, and no message before it makes one"
        raise RequestError(ErrorCode.INVALID_VALUE, f"Invalid value for '{param}.role': {reason}.", f"{param}.role")


def _part(param: str, part: content.ContentPart) -> Part:
    match part:
        case content.TextPart():
            return TextPart(text=part.text)
        case content.ImagePart():
            return ImagePart(
                url=part.image_url.url, param=f"{param}.image_url.url", detail=part.image_url.detail or "auto"
            )
        case content.VideoPart():
            return VideoPart(url=part.video_url.url, param=f"{param}.video_url.url")


def _num_chars(messages: tuple[Message, ...]) -> int:
    return sum(len(part.text) for message in messages for part in message.parts if isinstance(part, TextPart))


def _check_length(num_chars: int, max_model_len: int, param: str) -> None:
    # A character has at least one byte, so this never refuses what would fit.
    if num_chars > max_model_len * MAX_BYTES_PER_TOKEN:
        message = f"The model's context is {max_model_len} tokens; the {param} have {num_chars} characters."
        raise RequestError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, param)
