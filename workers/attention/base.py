"""What one packed forward knows beyond its hidden states: positions, rope lengths and how to attend.

Models read this record and call `attend`; the engine fills it. Nothing here knows of pages or sequences.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Attend(Protocol):
    """Causal attention of one decoder layer over everything its sequences have seen so far."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [T, num_heads, head_dim], k, v [T, num_kv_heads, head_dim], q and k rotated -> [T, num_heads * head_dim].

        The inputs may be strided views and are the caller's: copy what is to be kept. Scale is head_dim ** -0.5.
        """
        ...


@dataclass(slots=True)
class Step:
    """One packed forward of T tokens that belong to any number of sequences."""

    positions: Tensor
    """int64 [T], each token's position in its own sequence."""

    rope_lens: Tensor
    """int64 [T], max(num_prompt_tokens of its sequence, position + 1): the length that dynamic NTK and longrope see."""

    attend: Attend

    token_types: Tensor | None = None
    """int64 [T], 1 for a visual token, 0 for text; only families with visual experts read it."""
