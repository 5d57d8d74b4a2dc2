"""What the gateway answers a chat request with: one object, or a stream of chunks.

Structs and not pydantic models: a chunk is built and encoded for every few tokens, and nothing needs validation on
the way out. A field that is UNSET is left out of the JSON; one that is None is written as null, as OpenAI does.
"""

import msgspec
from msgspec import UNSET, UnsetType


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """Of the prompt's tokens: how many came from the prefix cache, stand for pictures, stand for clips."""

    cached_tokens: int = 0
    image_tokens: int = 0
    video_tokens: int = 0


class Usage(msgspec.Struct, frozen=True):
    """Token counts of a request; `completion_tokens` over all choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(msgspec.Struct, frozen=True):
    """One alternative at a position."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct, frozen=True):
    """The chosen token at a position. `logprob` is natural and at least -9999."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(msgspec.Struct, frozen=True):
    """Log probabilities of a choice's (or a delta's) tokens."""

    content: list[TokenLogprob]
    refusal: None = None


class PromptLogprob(msgspec.Struct, frozen=True):
    """A token at a position of the prompt, as vLLM tells it."""

    logprob: float
    rank: int
    decoded_token: str


class CalledFunction(msgspec.Struct, frozen=True):
    """What the model calls. `arguments` is JSON as text, or what the model took for it."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a tool."""

    id: str
    type: str = "function"
    function: CalledFunction


class AssistantMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer: text, calls or both."""

    role: str = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | UnsetType = UNSET


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One whole answer."""

    index: int
    message: AssistantMessage
    finish_reason: str
    logprobs: ChoiceLogprobs | None = None
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request that does not stream."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str | None = None
    prompt_token_ids: tuple[int, ...] | UnsetType = UNSET
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | UnsetType = UNSET


class FunctionDelta(msgspec.Struct, frozen=True):
    """What is new of a called function: its name first, then its arguments piece by piece."""

    arguments: str
    name: str | UnsetType = UNSET


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What is new in call `index` of a choice; `id` and `type` in its first delta only."""

    index: int
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: FunctionDelta


class ChunkDelta(msgspec.Struct, frozen=True):
    """What is new in a choice."""

    role: str | UnsetType = UNSET
    content: str | None | UnsetType = UNSET
    tool_calls: tuple[ToolCallDelta, ...] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What is new in one choice of a chunk."""

    index: int
    delta: ChunkDelta
    finish_reason: str | None = None
    logprobs: ChoiceLogprobs | None = None
    token_ids: tuple[int, ...] | UnsetType = UNSET


class ChatCompletionChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream."""

    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    system_fingerprint: str | None = None
    usage: Usage | None | UnsetType = UNSET
    prompt_token_ids: tuple[int, ...] | UnsetType = UNSET


class ModelObject(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of /v1/models."""

    id: str
    object: str = "model"
    created: int
    max_model_len: int
    architecture: str
    modalities: tuple[str, ...]
    owned_by: str = "glimpsed"


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of GET /v1/models."""

    object: str = "list"
    data: list[ModelObject]


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Log probabilities in the older shape: four lists of one length. `text_offset` counts characters of the text.
    None stands for the first token of a prompt."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One text, or what is new in it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    prompt_token_ids: tuple[int, ...] | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | UnsetType = UNSET


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a completion request, or one event of its stream."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    system_fingerprint: str | None = None
    usage: Usage | None | UnsetType = UNSET
    prompt_token_ids: tuple[int, ...] | UnsetType = UNSET


class Tokenization(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of POST /v1/tokenize. `count` includes `image_tokens` and `video_tokens`."""

    tokens: tuple[int, ...]
    count: int
    max_model_len: int | None
    image_tokens: int
    video_tokens: int
    token_strs: tuple[str, ...] | UnsetType = UNSET


class Detokenization(msgspec.Struct, frozen=True):
    """The answer of POST /v1/detokenize."""

    prompt: str
