"""The state of one running request: token ids, counters, media spans, status.

Knows nothing of tensors, pages' contents, tokenisers or the clock. The block manager moves `block_table`, the scheduler
everything else; other parts read.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import count
from typing import Any


class Status(IntEnum):
    """Where a sequence stands. Ordered: everything after PREEMPTED is finished."""

    WAITING = 0
    RUNNING = 1
    PREEMPTED = 2
    FINISHED_STOP = 3
    FINISHED_LENGTH = 4
    FINISHED_ABORTED = 5
    FINISHED_ERROR = 6


# Aborted and failed sequences have no finish reason: their requests end with an error event or with nobody listening.
FINISH_REASONS = {Status.FINISHED_STOP: "stop", Status.FINISHED_LENGTH: "length"}


@dataclass(frozen=True, slots=True, eq=False)
class MediaInput:
    """A picture, frame or clip that stands for the placeholder tokens [start, start + length) of a prompt.

    key: content digest, preprocessing options included; equal keys mean equal embeddings.
    tiles: what the vision tower takes; opaque here.
    offset, num_encoded: where spans share one encoding (frames that are only encoded together): the first row of this
        one in it, and how many rows it has. None: all its rows are this span's.
    """

    start: int
    length: int
    key: bytes
    tiles: Any = None
    offset: int = 0
    num_encoded: int | None = None

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def encoded_length(self) -> int:
        """Rows of the encoding that `key` names."""
        return self.length if self.num_encoded is None else self.num_encoded

    def overlaps(self, start: int, end: int) -> bool:
        """Whether one of its placeholders is among the tokens [start, end)."""
        return self.start < end and start < self.end


@dataclass(frozen=True, slots=True, eq=False)
class GridPositions:
    """M-RoPE: where tokens stand along time, height and width.

    prompt: int64 array [3, num_prompt_tokens], each column a function of the tokens and media up to it. Output p stands
    at p + offset in all three.
    """

    prompt: Any
    offset: int


@dataclass(slots=True, eq=False)
class Sequence:
    """One prompt and what was generated after it. Compared and hashed by identity.

    token_ids: prompt and outputs; only ever grows.
    num_prompt_tokens: length of the original prompt. Tokens that another worker emitted before a resume are outputs.
    max_total_tokens: hard end of prompt and outputs together.
    media: ascending by start, not overlapping, inside the prompt.
    priority: lower runs sooner; `arrival` (set by the scheduler) breaks ties.
    cache_salt: sequences share cached prefixes only with those of the same salt.
    rope_regime: the key of token p is rotated for the length n(p) = max(num_prompt_tokens, p + 1). rope_regime(n) is 0
        where that rotation is the plain one, any other int where it is not. None: plain at every length.
    grid_positions: for M-RoPE; None where positions are plain.
    sampling, grammar: opaque here; grammar is None where any text will do.
    num_prompt_logprobs: how many of the likeliest tokens are told at each position of the prompt, in `prompt_logprobs`;
        None: nothing is. Where it is, the prompt is computed afresh, whatever the prefix cache has.
    prompt_logprobs: opaque here; by position, from 1 on.
    num_computed_tokens: tokens whose keys and values are in the pool, from the front.
    num_cached_tokens: prompt tokens found in the prefix cache at the first admission (for usage).
    serial: no other sequence of this process has, or had, or will have the same.

    Raises ValueError when the prompt is empty or longer than token_ids, or the media spans break their rules.
    """

    request_id: str
    token_ids: list[int]
    num_prompt_tokens: int
    max_total_tokens: int
    media: tuple[MediaInput, ...] = ()
    priority: int = 0
    cache_salt: bytes = b""
    rope_regime: Callable[[int], int] | None = None
    grid_positions: GridPositions | None = None
    sampling: Any = None
    grammar: Any = None
    num_prompt_logprobs: int | None = None
    prompt_logprobs: dict[int, Any] = field(default_factory=dict, init=False)
    status: Status = field(default=Status.WAITING, init=False)
    arrival: int = field(default=0, init=False)
    num_computed_tokens: int = field(default=0, init=False)
    num_cached_tokens: int = field(default=0, init=False)
    block_table: list[int] = field(default_factory=list, init=False)
    block_hashes: list[bytes] = field(default_factory=list, init=False)
    num_committed_blocks: int = field(default=0, init=False)
    serial: int = field(default_factory=count().__next__, init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.num_prompt_tokens <= len(self.token_ids):
            raise ValueError(f"num_prompt_tokens {self.num_prompt_tokens} is not in 1..{len(self.token_ids)}")
        end = 0
        for item in self.media:
            if item.length < 1 or item.start < end or item.end > self.num_prompt_tokens:
                raise ValueError(f"media span [{item.start}, {item.end}) is empty, out of order or outside the prompt")
            if item.offset < 0 or item.offset + item.length > item.encoded_length:
                raise ValueError(f"media span [{item.start}, {item.end}) lies outside its encoding")
            end = item.end

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def output_ids(self) -> list[int]:
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def num_uncomputed(self) -> int:
        """Tokens still to go through the model; 1 while decoding, more while prefilling."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def is_at_limit(self) -> bool:
        """Whether no further token may be sampled."""
        return len(self.token_ids) >= self.max_total_tokens

    @property
    def is_finished(self) -> bool:
        return self.status > Status.PREEMPTED

    @property
    def finish_reason(self) -> str | None:
        return FINISH_REASONS.get(self.status)

    @property
    def order(self) -> tuple[int, int]:
        """Who goes first when something is scarce: the smaller."""
        return self.priority, self.arrival

    def media_between(self, start: int, end: int) -> list[MediaInput]:
        """The media whose placeholders are among the tokens [start, end), ascending."""
        if not self.media or start >= self.media[-1].end:  # decoding: the common case
            return []
        return [item for item in self.media if item.overlaps(start, end)]

    def media_passed(self, start: int, end: int) -> list[MediaInput]:
        """The media that end among the tokens [start, end), and whose encoding the next one does not share.

        What lies between two frames of a clip is a few tokens: their encoding is held until the last of them.
        """
        passed = [item for item in self.media_between(start, end) if item.end <= end]
        ahead = next((item for item in self.media if item.end > end), None) if passed else None
        return [item for item in passed if ahead is None or item.key != ahead.key]
