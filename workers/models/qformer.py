"""The Q-Former: a BERT that reads visual features with learned queries, and text along with them where there is some.

Source of the arithmetic: the authors' modeling_qformer. Post-norm throughout; queries have no positions.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.models.base import WeightSource
from workers.models.internvideo2_config import QFormerSpec
from workers.models.layers import take_layer_norm
from workers.models.linear import take_linear


class _Attention:
    """Multi-head attention, output projection, residual, norm."""

    def __init__(self, spec: QFormerSpec, weights: WeightSource, prefix: str, source_width: int) -> None:
        width = spec.hidden_size
        self._num_heads = spec.num_heads
        self._query = take_linear(weights, f"{prefix}query", (width,), width, bias=True)
        self._key_value = take_linear(weights, f"{prefix}key_value", (width, width), source_width, bias=True)
        self._out = take_linear(weights, f"{prefix}out", (width,), width, bias=True)
        self._norm = take_layer_norm(weights, f"{prefix}norm", width, spec.norm_eps)

    def __call__(self, x: Tensor, source: Tensor) -> Tensor:
        """x [N, Q, D] attends to source [N, S, E] -> [N, Q, D]."""
        q = self._heads(self._query(x))
        k, v = (self._heads(part) for part in self._key_value(source).chunk(2, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self._norm(self._out(mixed) + x)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self._num_heads, -1)).transpose(1, 2)


class _FeedForward:
    """Two layers with an exact GELU, residual, norm."""

    def __init__(self, spec: QFormerSpec, weights: WeightSource, prefix: str) -> None:
        width = spec.hidden_size
        self._fc1 = take_linear(weights, f"{prefix}fc1", (spec.intermediate_size,), width, bias=True)
        self._fc2 = take_linear(weights, f"{prefix}fc2", (width,), spec.intermediate_size, bias=True)
        self._norm = take_layer_norm(weights, f"{prefix}norm", width, spec.norm_eps)

    def __call__(self, x: Tensor) -> Tensor:
        return self._norm(self._fc2(self._fc1.gelu(x)) + x)


class _Layer:
    """All rows attend to one another; in even layers queries also read the features; queries and text then go through
    feed-forward parts of their own."""

    def __init__(self, spec: QFormerSpec, weights: WeightSource, prefix: str, index: int) -> None:
        self._num_queries = spec.num_tokens
        self._self = _Attention(spec, weights, f"{prefix}self.", spec.hidden_size)
        reads = index % 2 == 0
        self._cross = _Attention(spec, weights, f"{prefix}cross.", spec.encoder_width) if reads else None
        self._query_mlp = _FeedForward(spec, weights, f"{prefix}query_mlp.")
        self._text_mlp = _FeedForward(spec, weights, f"{prefix}text_mlp.")

    def __call__(self, x: Tensor, features: Tensor) -> Tensor:
        x = self._self(x, x)
        queries, text = x[:, : self._num_queries], x[:, self._num_queries :]
        if self._cross is not None:
            queries = self._cross(queries, features)
        queries = self._query_mlp(queries)
        return queries if text.shape[1] == 0 else torch.cat((queries, self._text_mlp(text)), dim=1)


class QFormer:
    """Features of any length -> a fixed number of tokens."""

    def __init__(self, spec: QFormerSpec, weights: WeightSource, prefix: str) -> None:
        width = spec.hidden_size
        self._num_queries = spec.num_tokens
        queries = weights.take(f"{prefix}queries", (1, spec.num_queries, width))
        extra = weights.take(f"{prefix}extra_queries", (1, spec.num_extra_queries, width))
        self._queries = torch.cat((queries, extra), dim=1)
        num_words = weights.num_rows(f"{prefix}words", spec.num_words)
        self._words = weights.take(f"{prefix}words", (num_words, width))
        self._positions = weights.take(f"{prefix}positions", (spec.num_positions, width))
        self._norm = take_layer_norm(weights, f"{prefix}norm", width, spec.norm_eps)
        self._layers = [_Layer(spec, weights, f"{prefix}layers.{i}.", i) for i in range(spec.num_layers)]

    def __call__(self, features: Tensor, text_ids: Sequence[int]) -> Tensor:
        """features [N, S, E], ids of a text that is read with each of them -> [N, queries, D]."""
        x = self._queries
        if text_ids:
            ids = torch.tensor(text_ids, device=features.device)
            x = torch.cat((x, (self._words[ids] + self._positions[: len(ids)])[None]), dim=1)
        x = self._norm(x).expand(len(features), -1, -1)
        for layer in self._layers:
            x = layer(x, features)
        return x[:, : self._num_queries]
