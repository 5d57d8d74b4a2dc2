"""What a gateway asks of a worker. A job is immutable; a resumed one is a copy with a later epoch."""

import msgspec

from schemas.sampling import SamplingParams


class TextPart(msgspec.Struct, frozen=True, tag="text"):
    """Plain text of a message; never parsed for control tokens."""

    text: str


class ImagePart(msgspec.Struct, frozen=True, tag="image"):
    """A picture by URL (https, http, data, file). `param` is its path in the client's body, for errors."""

    url: str
    param: str
    detail: str = "auto"


class VideoPart(msgspec.Struct, frozen=True, tag="video"):
    """A clip by URL. `param` is its path in the client's body, for errors."""

    url: str
    param: str


Part = TextPart | ImagePart | VideoPart


class Message(msgspec.Struct, frozen=True):
    """One turn: system, developer, user, assistant or tool."""

    role: str
    parts: tuple[Part, ...]


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
    tenant: whose caches may be shared; empty where no keys are set.
    """

    job_id: str
    model: str
    messages: tuple[Message, ...]
    sampling: SamplingParams
    media: MediaOptions = MediaOptions()
    n: int = 1
    priority: int = 0
    tenant: str = ""
    cache_salt: str = ""
    add_generation_prompt: bool = True
    return_token_ids: bool = False
    return_token_texts: bool = False
    timeout_s: float = 600.0
    epoch: int = 0
    emitted: tuple[EmittedChoice, ...] = ()


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
    epoch: int = 0
    emitted: tuple[EmittedChoice, ...] = ()


Job = ChatJob | CompletionJob
"""The union of job kinds, told apart by their `tag`; embed and score jobs join it here."""
