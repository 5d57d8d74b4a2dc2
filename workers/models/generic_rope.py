"""Our rotary frequencies, chosen by the length of each token's own sequence, in the shape that the library reads."""

import torch
from torch import Tensor, nn

from workers.models.rope import Rope


class LengthAwareRotary(nn.Module):
    """Stands in for a text backbone's `rotary_emb`. `rope_lens` int64 [T] is set before each forward."""

    def __init__(self, rope: Rope) -> None:
        super().__init__()
        self._rope = rope
        self.rope_lens: Tensor | None = None

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """position_ids [1, T] -> cos, sin [1, T, head_dim] in the type of `x`.

        Where no lengths are set, all tokens are of one sequence, as in the library's own forward.
        """
        positions = position_ids[0]
        lens = (positions.max() + 1).expand_as(positions) if self.rope_lens is None else self.rope_lens
        cos, sin = self._rope(positions, lens)
        negated, kept = sin.chunk(2, dim=-1)
        both_sin = torch.cat((-negated, kept), dim=-1)
        return cos.transpose(0, 1).to(x.dtype), both_sin.transpose(0, 1).to(x.dtype)
