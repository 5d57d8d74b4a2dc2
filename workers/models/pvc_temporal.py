"""PVC's temporal parts: A READING OF THE PAPER, NOT OF THE RELEASED CODE, which could not be had. All of it is here.

Established (configuration file, model card, paper): a picture is repeated `image_repeat_time` times; in the last layers
of the tower a causal temporal attention lets a patch see earlier frames at its place; relative timestamps, sinusoids of
256 values through an MLP, condition adaptive layer norms; the projector is conditioned too; 64 tokens a frame.

Guessed, and to be corrected here when the code or the tensor names are known:
- the tensor names in TEMPORAL_NAMES, and the key `temporal_num_layers`;
- place, scale and norm of the temporal attention in a layer (`TemporalLayer`), one head count for both attentions;
- scale of the timestamps, sinusoid order, shift before scale (`TimestampEmbedding`, `AdaptiveNorm`);
- that of the projector only the norm is adaptive (`TemporalProjector`);
- which frames see each other (`group_frames`), and the order of a picture's rows (`splice_order`).

The published files hold about 1.4 billion parameters more than InternVL2-8B where this reading adds 0.1: the real
layout is another. So a checkpoint is loaded only when each of its tensors is one that is expected here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.models.base import ModelError, WeightSource
from workers.models.config import Config, VisionSpec, positive_int
from workers.models.internvit import VisionTower
from workers.models.layers import take_layer_norm
from workers.models.linear import take_linear

NUM_SINUSOIDS = 128
_MAX_PERIOD, _TIME_SCALE = 10000.0, 1000.0
_KINDS = ("weight", "bias")

TEMPORAL_NAMES: Mapping[str, tuple[str, ...]] = {
    **{
        f"{ours}.{kind}": (f"{published}.{kind}",)
        for ours, published in {
            "times.fc1": "vision_model.temporal_embed.0",
            "times.fc2": "vision_model.temporal_embed.2",
            "temporal.layers.{}.norm": "vision_model.encoder.layers.{}.temporal_norm",
            "temporal.layers.{}.adapt": "vision_model.encoder.layers.{}.temporal_ada",
            "temporal.layers.{}.qkv": "vision_model.encoder.layers.{}.temporal_attn.qkv",
            "temporal.layers.{}.out": "vision_model.encoder.layers.{}.temporal_attn.proj",
            "projector.adapt": "mlp1_ada",
        }.items()
        for kind in _KINDS
    },
    "temporal.layers.{}.scale": ("vision_model.encoder.layers.{}.temporal_ls",),
}
"""Our names -> published ones, as in `workers.weights.rules`."""


@dataclass(frozen=True, slots=True)
class TemporalSpec:
    """The last `num_layers` layers of the tower look along time; width and heads are the tower's."""

    num_layers: int
    vision: VisionSpec


def parse_temporal(raw_vision: Config, vision: VisionSpec) -> TemporalSpec:
    """`vision_config` -> spec. Where it says nothing, every layer: the check of names then tells what there is."""
    num_layers = positive_int(raw_vision, "temporal_num_layers", vision.num_layers)
    if num_layers > vision.num_layers:
        raise ModelError(f"config.json: temporal_num_layers {num_layers} exceeds the {vision.num_layers} layers")
    return TemporalSpec(num_layers, vision)


def group_frames(pixels: Tensor, is_clip: bool) -> Tensor:
    """[N, S, S, 3] -> [G, F, S, S, 3]: a clip's frames are one group, each tile of a picture is one of its own."""
    return pixels[None] if is_clip else pixels[:, None]


def splice_order(rows: Tensor) -> Tensor:
    """[G, T, tokens, H] -> [G * T * tokens, H] as they stand in the prompt: all groups at the first time, then on."""
    return rows.transpose(0, 1).reshape(-1, rows.shape[-1])


class TimestampEmbedding:
    """The relative time t/T of each of T frames: sinusoids, Linear, SiLU, Linear."""

    def __init__(self, width: int, weights: WeightSource, prefix: str) -> None:
        exponents = torch.arange(NUM_SINUSOIDS, dtype=torch.float32, device=weights.device) / NUM_SINUSOIDS
        self._frequencies = _MAX_PERIOD**-exponents
        self._dtype = weights.dtype
        self._fc1 = take_linear(weights, f"{prefix}fc1", (width,), 2 * NUM_SINUSOIDS, bias=True)
        self._fc2 = take_linear(weights, f"{prefix}fc2", (width,), width, bias=True)

    def __call__(self, num_frames: int) -> Tensor:
        """[T, C]."""
        times = torch.arange(num_frames, dtype=torch.float32, device=self._frequencies.device) / num_frames
        angles = (_TIME_SCALE * times)[:, None] * self._frequencies
        sinusoids = torch.cat((angles.cos(), angles.sin()), dim=-1).to(self._dtype)
        return self._fc2(F.silu(self._fc1(sinusoids)))


class AdaptiveNorm:
    """LayerNorm whose result is scaled and shifted by what the frame's timestamp says."""

    def __init__(self, width: int, times_width: int, eps: float, weights: WeightSource, prefix: str) -> None:
        self._norm = take_layer_norm(weights, f"{prefix}norm", width, eps)
        self._adapt = take_linear(weights, f"{prefix}adapt", (2 * width,), times_width, bias=True)

    def __call__(self, x: Tensor, times: Tensor) -> Tensor:
        """[G, T, P, width], [T, C] -> [G, T, P, width]."""
        shift, scale = self._adapt(F.silu(times))[:, None].chunk(2, dim=-1)
        return torch.addcmul(shift, self._norm(x), 1 + scale)


class TemporalLayer:
    """Causal attention along time, one place of the picture by itself; a learned scale multiplies the branch."""

    def __init__(self, spec: VisionSpec, weights: WeightSource, prefix: str) -> None:
        width = spec.hidden_size
        self._num_heads = spec.num_heads
        self._norm = AdaptiveNorm(width, width, spec.norm_eps, weights, prefix)
        self._qkv = take_linear(weights, f"{prefix}qkv", (width, width, width), width, bias=True)
        self._out = take_linear(weights, f"{prefix}out", (width,), width, bias=True)
        self._scale = weights.take(f"{prefix}scale", (width,))

    def __call__(self, x: Tensor, times: Tensor) -> Tensor:
        """[G, T, P, C], [T, C] -> [G, T, P, C]."""
        groups, frames, places, width = x.shape
        tracks = self._norm(x, times).transpose(1, 2)
        qkv = self._qkv(tracks).view(groups * places, frames, 3, self._num_heads, -1)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        branch = self._out(mixed.reshape(groups, places, frames, width)).transpose(1, 2)
        return torch.addcmul(x, branch, self._scale)


class TemporalLayers:
    """An InternViT with temporal attention in its last layers, between the two halves of each."""

    def __init__(self, spec: TemporalSpec, weights: WeightSource, prefix: str) -> None:
        self._first = spec.vision.num_layers - spec.num_layers
        numbers = range(self._first, spec.vision.num_layers)
        self._layers = [TemporalLayer(spec.vision, weights, f"{prefix}layers.{i}.") for i in numbers]

    def __call__(self, tower: VisionTower, pixels: Tensor, times: Tensor) -> Tensor:
        """Normalised pixels [G, F, S, S, 3], [T, C] -> [G, T, 1 + patches, C]; a picture's F = 1 stands for all T.

        Repetitions of a picture are computed once as far as they are equal.
        """
        groups, stored = pixels.shape[:2]
        x = tower.embed(pixels.flatten(0, 1))
        for layer in tower.layers[: self._first]:
            x = layer(x)
        for layer, temporal in zip(tower.layers[self._first :], self._layers, strict=True):
            frames = layer.attend(x).view(groups, stored, *x.shape[1:]).expand(-1, len(times), -1, -1)
            x = layer.feed_forward(temporal(frames, times).flatten(0, 1))
            stored = len(times)
        return x.view(groups, stored, *x.shape[1:])


class TemporalProjector:
    """`layers.Projector` with an adaptive norm."""

    def __init__(
        self, in_features: int, hidden_size: int, times_width: int, weights: WeightSource, prefix: str
    ) -> None:
        self._norm = AdaptiveNorm(in_features, times_width, 1e-5, weights, prefix)
        self._fc1 = take_linear(weights, f"{prefix}fc1", (hidden_size,), in_features, bias=True)
        self._fc2 = take_linear(weights, f"{prefix}fc2", (hidden_size,), hidden_size, bias=True)

    def __call__(self, x: Tensor, times: Tensor) -> Tensor:
        """[G, T, tokens, in_features], [T, C] -> [G, T, tokens, H]."""
        return self._fc2(self._fc1.gelu(self._norm(x, times)))
