"""What a gateway asks of a worker. A job is immutable; a resumed one is a copy with a later epoch."""

import msgspec

from schemas.data_url import LongText
from schemas.sampling import SamplingParams

BACKGROUND_PRIORITY = 2**31
"""Behind every priority that a request may ask for. Such a job makes way for live ones where the queue is full."""


class TextPart(msgspec.Struct, frozen=True, tag="text"):
    """Plain text of a message; never parsed for control tokens."""

    text: str


class ImagePart(msgspec.Struct, frozen=True, tag="image"):
    """A picture by URL (https, http, data, file). `param` is its path in the client's body, for errors.

    text: of a long data URL what stands behind the comma, with which `url` then ends.
    """

    url: str
    param: str
    detail: str = "auto"
    text: LongText | None = None


class VideoPart(msgspec.Struct, frozen=True, tag="video"):
    """A clip by URL. Fields that a picture has too mean the same."""

    url: str
    param: str
    text: LongText | None = None


Part = TextPart | ImagePart | VideoPart


class ToolCall(msgspec.Struct, frozen=True):
    """A call that the model has made. `arguments` is what it wrote: a JSON object, or nothing, or worse."""

    id: str
    name: str
    arguments: str


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn: system, developer, user, assistant or tool.

    tool_calls: those of an assistant's turn, made behind its parts.
    tool_call_id: on a tool's turn, the call of the nearest assistant's turn before that it answers.
    """

    role: str
    parts: tuple[Part, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


class Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function that the model may call.

    parameters: JSON schema of its arguments, an object's, as JSON text; None: it takes none.
    is_strict: its arguments must conform to the schema also where the model chooses by itself to call it.
    """

    name: str
    description: str | None = None
    parameters: str | None = None
    is_strict: bool = False


class ToolChoice(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether the model must call tools, and which.

    names: those that it may call; empty: all. is_parallel: whether one answer may hold several calls.
    """

    is_required: bool = False
    names: tuple[str, ...] = ()
    is_parallel: bool = True


class MediaOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the request wants its media prepared; None = the model's and the server's default. A request may lower
    the server's ceilings, never raise them. `family` holds options that only one model family knows, by name."""

    max_dynamic_patch: int | None = None
    min_dynamic_patch: int | None = None
    use_thumbnail: bool | None = None
    fast_resize: bool | None = None
    exif_transpose: bool = True
    num_frames: int | None = None
    fps: float | None = None
    start_s: float | None = None
    end_s: float | None = None
    family: dict[str, bool | int | float | str | tuple[int, ...] | None] = {}


class EmittedChoice(msgspec.Struct, frozen=True):
    """What the client has already been given of one choice, when a job is taken over from a lost worker."""

    index: int
    token_ids: tuple[int, ...]
    is_finished: bool = False


class ChatJob(msgspec.Struct, frozen=True, kw_only=True, tag="chat"):
    """Generate `n` choices for a conversation.

    n: 0 generates nothing; the answer is what Accepted says of the prompt, also of one that the context cannot hold.
    epoch: 0 at first; each redelivery adds one. Events of an older epoch are void.
    emitted: per choice the ids that the client already has; the worker goes on behind them.
    timeout_s: time left when the job was handed over; the gateway enforces it, a worker may drop what is overdue.
    created: when the request came, in Unix time; answers tell it.
    tenant: whose caches may be shared; empty where no keys are set.
    media_digests: of a job that is taken over, what its first worker said of its media; other media end it.
    trial_tokens: of a job that a lost worker had begun, which may be what ended it: a worker has one such job at a time
        until so many of its tokens are there, of all choices. 0: it is not suspected.
    tools: the worker writes them into the prompt in the form that its model knows, and tells that form in Accepted;
        none where the answer may not call any.
    """

    job_id: str
    model: str
    messages: tuple[Message, ...]
    sampling: SamplingParams
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    media: MediaOptions = MediaOptions()
    media_digests: tuple[bytes, ...] = ()
    n: int = 1
    priority: int = 0
    tenant: str = ""
    cache_salt: str = ""
    add_generation_prompt: bool = True
    return_token_ids: bool = False
    return_token_texts: bool = False
    timeout_s: float = 600.0
    created: int = 0
    epoch: int = 0
    emitted: tuple[EmittedChoice, ...] = ()
    trial_tokens: int = 0


class CompletionJob(msgspec.Struct, frozen=True, kw_only=True, tag="completion"):
    """Go on from a bare prompt, without a conversation or media. Fields that a chat has too mean the same.

    prompt: text, in which the names of control tokens count as those tokens, or token ids, taken as they are.
    add_special_tokens: put BOS in front of a text where the checkpoint wants it.
    echo: Accepted tells the prompt's text.
    """

    job_id: str
    model: str
    prompt: str | tuple[int, ...]
    sampling: SamplingParams
    n: int = 1
    priority: int = 0
    tenant: str = ""
    cache_salt: str = ""
    add_special_tokens: bool = True
    echo: bool = False
    return_token_ids: bool = False
    return_token_texts: bool = False
    timeout_s: float = 600.0
    created: int = 0
    epoch: int = 0
    emitted: tuple[EmittedChoice, ...] = ()
    trial_tokens: int = 0


Job = ChatJob | CompletionJob
"""The union of job kinds, told apart by their `tag`; embed and score jobs join it here."""
