"""What a worker tells the gateway about a job.

Every event names its job and epoch and carries `seq`, counted from 0 within an epoch without a gap. The life of a
job within one epoch: Accepted, Delta*, then exactly one of Finished or Failed.

As bytes they are arrays, which are read five times as fast as maps: a new field goes to the end, with a default.
"""

import msgspec


class TopLogprob(msgspec.Struct, frozen=True, array_like=True):
    """One alternative at a position: natural log over the model's raw distribution."""

    token: str
    token_bytes: bytes
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """The chosen token at a position with the most likely alternatives."""

    token: str
    token_bytes: bytes
    logprob: float
    top: tuple[TopLogprob, ...] = ()


class RankedToken(msgspec.Struct, frozen=True, array_like=True):
    """A token at a position of a prompt: natural log over the model's raw distribution; rank 1 is the most likely."""

    token_id: int
    token: str
    logprob: float
    rank: int


PromptLogprobs = tuple[tuple[RankedToken, ...], ...]
"""For each token of a prompt: itself, then the most likely ones in order. The first follows nothing and has nothing."""


class Accepted(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="accepted"):
    """Media are fetched, the prompt is built and fits: from here on the answer is a 200.

    prompt_token_ids: only where the job asked for token ids; placeholders expanded.
    prompt_token_texts: only where the job asked for them: each of those ids for people to read.
    prompt_text: only where the job asked for its echo; special tokens kept.
    prompt_logprobs: only where the job asked for them; not again where `emitted` says that the client has them.
    tool_form: how calls stand in the text of the answer, a key of schemas.tool_forms.FORMS; None: it makes none.
    media_digests: sha256 of each medium and of how it was prepared, in the prompt's order.
    """

    job_id: str
    epoch: int
    seq: int
    prompt_tokens: int
    image_tokens: int = 0
    video_tokens: int = 0
    prompt_token_ids: tuple[int, ...] | None = None
    prompt_token_texts: tuple[str, ...] | None = None
    prompt_text: str | None = None
    prompt_logprobs: PromptLogprobs | None = None
    tool_form: str | None = None
    media_digests: tuple[bytes, ...] = ()


class Delta(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="delta"):
    """New tokens of one choice.

    start: how many tokens of this choice came before; the gateway checks it against what it has.
    text: what became stable with these tokens (may be empty, may include text withheld before).
    finish_reason: set on the choice's last delta: "stop" or "length".
    stop_string: on the last delta, the one of the request's stop strings that ended the choice.
    """

    job_id: str
    epoch: int
    seq: int
    index: int
    start: int
    token_ids: tuple[int, ...]
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: str | None = None
    stop_string: str | None = None


class Finished(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="finished"):
    """All choices are done. `completion_tokens` counts those of all choices and epochs."""

    job_id: str
    epoch: int
    seq: int
    completion_tokens: int
    cached_tokens: int = 0


class Failed(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="failed"):
    """The job ends here with an error; `code` is a value of schemas.errors.ErrorCode."""

    job_id: str
    epoch: int
    seq: int
    code: str
    message: str
    param: str | None = None


Event = Accepted | Delta | Finished | Failed
