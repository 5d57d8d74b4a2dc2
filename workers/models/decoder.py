"""One packed decoder for Llama, InternLM2 (with or without visual experts), Mistral, Qwen2, Qwen3 and Phi3 blocks.

Tokens of all sequences lie in one [T, hidden] tensor from end to end; attention comes with the step. Functional code
over plain attributes: at decode the dispatch of small operations is a large share of a layer's time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.attention.base import Attend, Routes, Step
from workers.models.base import KVSpec, WeightSource
from workers.models.config import DecoderSpec
from workers.models.layers import RMSNorm, take_rms_norm
from workers.models.linear import padded_rows, take_linear
from workers.models.rope import Rope


class Mlp:
    """Fused gate|up product, SiLU, down."""

    __slots__ = ("_down", "_gate_up")

    def __init__(self, spec: DecoderSpec, weights: WeightSource, prefix: str) -> None:
        self._gate_up = take_linear(weights, f"{prefix}gate_up", (spec.intermediate_size,) * 2, spec.hidden_size)
        self._down = take_linear(weights, f"{prefix}down", (spec.hidden_size,), spec.intermediate_size)

    @property
    def is_packed(self) -> bool:
        return self._gate_up.is_packed or self._down.is_packed

    def __call__(self, x: Tensor) -> Tensor:
        """[T, H] -> [T, H]."""
        gate, up = self._gate_up(x).chunk(2, dim=-1)
        return self._down(F.silu(gate).mul_(up))


class DecoderLayer:
    """Pre-norm block: fused q|k|v product, rotary on q and k together, attention, MLP.

    With visual experts, visual tokens have an MLP of their own and share everything else.
    """

    __slots__ = (
        "_head_dim",
        "_index",
        "_input_norm",
        "_mlp",
        "_num_heads",
        "_num_kv_heads",
        "_out",
        "_post_norm",
        "_qk_norm",
        "_qkv",
        "_rope",
        "_visual_mlp",
    )

    def __init__(self, spec: DecoderSpec, weights: WeightSource, prefix: str, index: int, rope: Rope) -> None:
        width, head_dim = spec.hidden_size, spec.head_dim
        q_width, kv_width = spec.num_heads * head_dim, spec.num_kv_heads * head_dim
        self._index = index
        self._rope = rope
        self._num_heads, self._num_kv_heads, self._head_dim = spec.num_heads, spec.num_kv_heads, head_dim
        self._input_norm = take_rms_norm(weights, f"{prefix}input_norm", width, spec.norm_eps)
        self._qkv = take_linear(weights, f"{prefix}qkv", (q_width, kv_width, kv_width), width, spec.qkv_bias)
        self._qk_norm = self._take_qk_norm(weights, prefix, spec.norm_eps) if spec.qk_norm else None
        self._out = take_linear(weights, f"{prefix}out", (width,), q_width, spec.out_bias)
        self._post_norm = take_rms_norm(weights, f"{prefix}post_norm", width, spec.norm_eps)
        self._mlp = Mlp(spec, weights, prefix)
        self._visual_mlp = Mlp(spec, weights, f"{prefix}visual_") if spec.has_visual_experts else None

    def _take_qk_norm(self, weights: WeightSource, prefix: str, eps: float) -> RMSNorm:
        """Both norms as one with weight [num_heads + num_kv_heads, head_dim], a row for each head."""
        q_norm = weights.take(f"{prefix}q_norm.weight", (self._head_dim,))
        k_norm = weights.take(f"{prefix}k_norm.weight", (self._head_dim,))
        q_rows, k_rows = q_norm.expand(self._num_heads, -1), k_norm.expand(self._num_kv_heads, -1)
        return RMSNorm(torch.cat((q_rows, k_rows)), eps)

    @property
    def is_packed(self) -> bool:
        """Whether rows of zeros should come with some numbers of tokens, see `padded_rows`."""
        return self._qkv.is_packed or self._out.is_packed or self._mlp.is_packed

    def __call__(self, hidden: Tensor, cos: Tensor, sin: Tensor, attend: Attend, routes: Routes | None) -> Tensor:
        """hidden [T, H]; cos, sin [T, 1, head_dim] -> [T, H]."""
        hidden = hidden + self._attention(self._input_norm(hidden), cos, sin, attend)
        x = self._post_norm(hidden)
        if routes is None or self._visual_mlp is None:
            return hidden.add_(self._mlp(x))
        hidden.index_add_(0, routes.text, self._mlp(x[routes.text]))
        return hidden.index_add_(0, routes.visual, self._visual_mlp(x[routes.visual]))

    def _attention(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        heads = self._qkv(x).view(x.shape[0], -1, self._head_dim)
        qk = heads.narrow(1, 0, self._num_heads + self._num_kv_heads)
        v = heads.narrow(1, self._num_heads + self._num_kv_heads, self._num_kv_heads)
        if self._qk_norm is not None:
            qk = self._qk_norm(qk)
        self._rope.rotate_(qk, cos, sin)
        q, k = qk.narrow(1, 0, self._num_heads), qk.narrow(1, self._num_heads, self._num_kv_heads)
        return self._out(attend(self._index, q, k, v))


class LayerStack:
    """Rotary embedding and layers, without anything before or behind them."""

    def __init__(self, spec: DecoderSpec, weights: WeightSource, prefix: str) -> None:
        self.kv_spec = KVSpec(spec.num_layers, spec.num_kv_heads, spec.head_dim, spec.sliding_window)
        self._rope = Rope(spec.rope, spec.head_dim, weights.device, weights.dtype)
        self._layers = [
            DecoderLayer(spec, weights, f"{prefix}layers.{index}.", index, self._rope)
            for index in range(spec.num_layers)
        ]
        self._pads = any(layer.is_packed for layer in self._layers)

    def __call__(self, hidden: Tensor, step: Step) -> Tensor:
        """[T, H] -> [T, H], a new tensor."""
        cos, sin = self._rope(step.positions, step.rope_lens)
        num_tokens = len(hidden)
        if self._pads and (num_padding := padded_rows(num_tokens) - num_tokens):
            hidden, cos, sin = (_with_rows(x, num_padding) for x in (hidden, cos, sin))
        for layer in self._layers:
            hidden = layer(hidden, cos, sin, step.attend, step.routes)
        return hidden[:num_tokens]


def _with_rows(x: Tensor, count: int) -> Tensor:
    """With rows of zeros behind its own."""
    return torch.cat((x, x.new_zeros(count, *x.shape[1:])))


class Decoder:
    """Embedding table, layers, final norm and output head of a text backbone."""

    def __init__(self, spec: DecoderSpec, weights: WeightSource, prefix: str) -> None:
        self.spec = spec
        self._embedding = weights.take(f"{prefix}embedding.weight", (spec.vocab_size, spec.hidden_size))
        self._stack = LayerStack(spec, weights, prefix)
        self.kv_spec = self._stack.kv_spec
        self._norm = take_rms_norm(weights, f"{prefix}norm", spec.hidden_size, spec.norm_eps)
        self._head = take_linear(weights, f"{prefix}head", (spec.vocab_size,), spec.hidden_size)

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """int64 [T] -> [T, H], a new tensor."""
        return F.embedding(ids, self._embedding)

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        """[T, H] -> [T, H] with the final norm applied; `hidden` is left as it was."""
        return self._norm(self._stack(hidden, step))

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """[R, H] -> float32 [R, V]."""
        return self._head(hidden).float()
