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

        The inputs may be strided views and are the caller's: copy what is to be kept. Scale is head_dim ** -0.5. There
        may be more rows than the step has tokens: those behind it are of no sequence, and of zeros in the answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class Routes:
    """Rows of one forward by what they stand for: int64 indices, ascending, together all rows."""

    text: Tensor
    visual: Tensor


@dataclass(slots=True)
class Step:
    """One packed forward of T tokens that belong to any number of sequences."""

    positions: Tensor
    """int64 [T], each token's position in its own sequence."""

    rope_lens: Tensor
    """int64 [T], max(num_prompt_tokens of its sequence, position + 1): the length that dynamic NTK and longrope see."""

    attend: Attend

    grid_positions: Tensor | None = None
    """int64 [3, T], positions along time, height and width; None where all three are `positions`. Only models with
    M-RoPE read it."""

    routes: Routes | None = None
    """Which tokens are visual; None where none is. Only families that treat them unlike text read it."""

    lower: "Step | None" = None
    """The same tokens as the stack under the backbone sees them; only families with two stacks have one."""

    rows: Tensor | None = None
    """int64 [U], in a lower step whose stack unfolds visual tokens: which of the parts [T * parts, H] of the backbone's
    tokens its own U rows are. None: the stacks see the same rows."""
