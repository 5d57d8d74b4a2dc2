"""Attention for packed sequences in the plainest way: every key and value is kept, each sequence is attended by itself.

The slow twin of the engine's paged attention.
"""

from collections.abc import Hashable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class DenseAttention:
    """Holds keys and values of any number of sequences; `layout` says whose tokens the next forward packs."""

    def __init__(self) -> None:
        self.layout: Sequence[tuple[Hashable, int]] = ()
        self._kept: dict[tuple[int, Hashable], tuple[Tensor, Tensor]] = {}

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [T, n_heads, d], k and v [T, n_kv, d] -> [T, n_heads * d]."""
        lengths = [length for _, length in self.layout]
        num_tokens = sum(lengths)
        parts = zip(self.layout, *(x[:num_tokens].split(lengths) for x in (q, k, v)), strict=True)
        mixed = torch.cat([self._attend(layer, owner, *qkv) for (owner, _), *qkv in parts])
        return F.pad(mixed, (0, 0, 0, len(q) - num_tokens))

    def _attend(self, layer: int, owner: Hashable, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if (layer, owner) in self._kept:
            old_k, old_v = self._kept[layer, owner]
            k, v = torch.cat((old_k, k)), torch.cat((old_v, v))
        self._kept[layer, owner] = (k.clone(), v.clone())
        length, total = q.shape[0], k.shape[0]
        mask = torch.ones(length, total, dtype=torch.bool).tril(total - length)
        heads_first = [x.transpose(0, 1)[None] for x in (q, k, v)]
        mixed = F.scaled_dot_product_attention(*heads_first, attn_mask=mask, enable_gqa=True)
        return mixed[0].transpose(0, 1).reshape(length, -1)
