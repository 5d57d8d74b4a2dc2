"""The language model, with Qwen2's parameter names and arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .shape import Dimensions

HIDDEN = -1e4
SUBJECT, OTHER = 0, 1
POINTING = {1: {4: OTHER}, 2: {0: SUBJECT, 2: SUBJECT}}
"""Layer -> head -> which part of the gaze it is taught: what a thing is held against first, so that the next layer
can find the subject by it."""


@dataclass(frozen=True)
class Sight:
    """Who sees whom, as additive masks.

    A sequence is a prefix of ``prefix_length`` tokens (causal) and then ``rows`` equal rows.
    Each row holds a few branches: a token there sees the prefix and the past of its own
    branch. Branches cost little this way, however many share one picture. ``gaze`` tells
    where the pointing heads should look (``join.pad``), ``missed`` receives what they did not.
    """

    prefix_length: int
    rows: int
    prefix: Tensor
    past: Tensor
    own: Tensor
    gaze: Tensor | None = None
    missed: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(
        cls, branches: Tensor, prefix_length: int, rows: int, dtype: torch.dtype, gaze: Tensor | None = None
    ) -> Sight:
        """From the branch of each token: 0 in the prefix, 1.. in the rows, -1 for padding."""
        b, n = branches.shape
        before = branches[:, :prefix_length]
        causal = torch.ones(prefix_length, prefix_length, dtype=torch.bool).tril()
        real = (before == 0)[:, None]
        after = branches[:, prefix_length:].reshape(b, rows, -1) if rows else branches[:, :0].reshape(b, 1, 0)
        length = after.shape[2]
        same = (after[..., :, None] == after[..., None, :]) & torch.ones(length, length, dtype=torch.bool).tril()

        def additive(sees: Tensor) -> Tensor:
            return torch.where(sees, 0.0, HIDDEN).to(dtype)[:, None]

        if gaze is not None:
            gaze = gaze.view(2, b, rows, -1, prefix_length)
        return cls(prefix_length, rows, additive(real & causal), additive(real), additive(same), gaze)

    def judge(self, scores: Tensor, head: int, part: int) -> None:
        """Note the cross entropy between a head's attention scores and where it should look."""
        if self.gaze is None:
            return
        told = self.gaze[part].any(-1)
        found = scores[:, head][told].float()
        right = found[:, : self.prefix_length].masked_fill(~self.gaze[part][told], -torch.inf)
        self.missed.append(found.logsumexp(-1) - right.logsumexp(-1))


class RmsNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class SelfAttention(nn.Module):
    def __init__(self, dims: Dimensions, pointing: Mapping[int, int]):
        super().__init__()
        self.pointing = pointing
        self.heads, self.kv_heads = dims.text_heads, dims.text_kv_heads
        self.width = dims.text_width // self.heads
        self.q_proj = nn.Linear(dims.text_width, self.heads * self.width)
        self.k_proj = nn.Linear(dims.text_width, self.kv_heads * self.width)
        self.v_proj = nn.Linear(dims.text_width, self.kv_heads * self.width)
        self.o_proj = nn.Linear(self.heads * self.width, dims.text_width, bias=False)
        self._start_as_lookup()

    @torch.no_grad()
    def _start_as_lookup(self) -> None:
        """Begin by looking for alike tokens and passing on what they hold, which most answers come down to."""
        group = self.heads // self.kv_heads
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            projection.bias.zero_()
        for head in range(self.heads):
            own = slice(head * self.width, (head + 1) * self.width)
            shared = slice(head // group * self.width, (head // group + 1) * self.width)
            self.q_proj.weight[own].mul_(0.5).add_(self.k_proj.weight[shared])
            self.o_proj.weight[:, own].mul_(0.5).add_(self.v_proj.weight[shared].T, alpha=0.5)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], sight: Sight) -> Tensor:
        b, n, _ = x.shape
        q = _rotate(self.q_proj(x).view(b, n, self.heads, self.width).transpose(1, 2), turn) * self.width**-0.5
        k = _rotate(self.k_proj(x).view(b, n, self.kv_heads, self.width).transpose(1, 2), turn)
        v = self.v_proj(x).view(b, n, self.kv_heads, self.width).transpose(1, 2)
        group = self.heads // self.kv_heads
        k, v = (t.repeat_interleave(group, 1) for t in (k, v))
        p = sight.prefix_length
        past_k, past_v = k[:, :, :p], v[:, :, :p]
        mixed = torch.softmax(q[:, :, :p] @ past_k.mT + sight.prefix, -1) @ past_v
        if n > p:
            rows = (b, self.heads, sight.rows, (n - p) // sight.rows)
            own_q, own_k, own_v = (t[:, :, p:].reshape(*rows, self.width) for t in (q, k, v))
            past = (q[:, :, p:] @ past_k.mT + sight.past).view(*rows, p)
            scores = torch.cat([past, own_q @ own_k.mT + sight.own], -1)
            for head, part in self.pointing.items():
                sight.judge(scores, head, part)
            weights = torch.softmax(scores, -1)
            answer = weights[..., :p].reshape(b, self.heads, n - p, p) @ past_v
            answer = answer + (weights[..., p:] @ own_v).view(b, self.heads, n - p, self.width)
            mixed = torch.cat([mixed, answer], 2)
        return self.o_proj(mixed.transpose(1, 2).reshape(b, n, -1))


def _rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = turn
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class GatedMlp(nn.Module):
    def __init__(self, dims: Dimensions):
        super().__init__()
        self.gate_proj = nn.Linear(dims.text_width, dims.text_hidden, bias=False)
        self.up_proj = nn.Linear(dims.text_width, dims.text_hidden, bias=False)
        self.down_proj = nn.Linear(dims.text_hidden, dims.text_width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, dims: Dimensions, pointing: Mapping[int, int]):
        super().__init__()
        self.input_layernorm = RmsNorm(dims.text_width, dims.rms_eps)
        self.self_attn = SelfAttention(dims, pointing)
        self.post_attention_layernorm = RmsNorm(dims.text_width, dims.rms_eps)
        self.mlp = GatedMlp(dims)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], sight: Sight) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), turn, sight)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, dims: Dimensions, vocabulary: int):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, dims.text_width)
        self.layers = nn.ModuleList(Layer(dims, POINTING.get(i, {})) for i in range(dims.text_layers))
        self.norm = RmsNorm(dims.text_width, dims.rms_eps)


class LanguageModel(nn.Module):
    """Embeddings, positions and who sees whom -> hidden states ready for ``lm_head``."""

    def __init__(self, dims: Dimensions, vocabulary: int):
        super().__init__()
        self.model = Decoder(dims, vocabulary)
        self.lm_head = nn.Linear(dims.text_width, vocabulary, bias=False)
        half = dims.text_width // dims.text_heads // 2
        self.rates = dims.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)
        nn.init.normal_(self.model.embed_tokens.weight, std=0.3)
        nn.init.normal_(self.lm_head.weight, std=0.05)

    def forward(self, x: Tensor, positions: Tensor, sight: Sight) -> Tensor:
        angles = positions[:, None, :, None].float() * torch.cat([self.rates, self.rates])
        turn = (angles.cos().to(x.dtype), angles.sin().to(x.dtype))
        for layer in self.model.layers:
            x = layer(x, turn, sight)
        return self.model.norm(x)
