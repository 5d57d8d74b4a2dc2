"""One sequence's sampling with the model's defaults filled in, and its random draws."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from workers.engine.bad_words import BadWords

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class Sampling:
    """What the sampler and the engine read for one sequence.

    temperature 0 = greedy. top_k 0, top_p 1 and min_p 0 = off. num_logprobs: alternatives to report, None = no
    logprobs at all. stop_token_ids end the answer; they cannot be chosen before `min_tokens` are out.
    """

    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    bad_words: BadWords | None = None
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    num_logprobs: int | None = None

    @property
    def has_penalties(self) -> bool:
        """Whether earlier outputs change the logits."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    def banned_ids(self, token_ids: Sequence[int], start: int) -> list[int]:
        """What must not be chosen behind token_ids[start:], the answer so far."""
        banned = list(self.stop_token_ids) if len(token_ids) - start < self.min_tokens else []
        if self.bad_words is not None:
            banned += self.bad_words.banned_ids(token_ids, start)
        return banned


def uniform(seed: int, position: int) -> float:
    """The draw in [0, 1) for an output position: a counter-based generator (splitmix64's finaliser over both), so that
    neither the batch's make-up nor a change of worker alters it."""
    return (_mix(_mix(seed & _MASK) + position * _GOLDEN) >> 11) * 2.0**-53


def choice_seed(seed: int, index: int) -> int:
    """The seed of the index-th of `n` choices; the first keeps the request's own."""
    return seed if index == 0 else _mix(seed + index)


def _mix(value: int) -> int:
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
