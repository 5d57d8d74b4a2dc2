"""Small pieces that several families share: norms, pixel normalisation, pixel shuffle, the two-layer projector."""

from collections.abc import Generator

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.models.base import WeightSource
from workers.models.linear import take_linear

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class RMSNorm:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, computed in float32; a new tensor.

    `weight` is [width] or broadcasts against x, [heads, width] for example. On a CPU F.rms_norm is a chain of small
    operations; the chain here takes half to two thirds of its time.
    """

    __slots__ = ("_eps", "_eps_tensor", "_inverse_width", "_weight")

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight = weight
        self._eps = eps
        self._eps_tensor = torch.full((), eps, dtype=torch.float32, device=weight.device)
        self._inverse_width = 1 / weight.shape[-1]

    def __call__(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        if x.is_cuda:
            return F.rms_norm(x, x.shape[-1:], None, self._eps).mul_(self._weight)
        wide = x.float()
        norm: Tensor = torch.linalg.vector_norm(wide, 2, -1, True)
        scale = torch.addcmul(self._eps_tensor, norm, norm, value=self._inverse_width).rsqrt_()
        return (wide * scale).mul_(self._weight).to(x.dtype)


class LayerNorm:
    """LayerNorm with weight and bias over the last dimension."""

    def __init__(self, weight: Tensor, bias: Tensor, eps: float) -> None:
        self._weight = weight
        self._bias = bias
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return F.layer_norm(x, self._weight.shape, self._weight, self._bias, self._eps)


def take_rms_norm(weights: WeightSource, name: str, width: int, eps: float) -> RMSNorm:
    """The RMSNorm `name` of `weights`."""
    return RMSNorm(weights.take(f"{name}.weight", (width,)), eps)


def take_layer_norm(weights: WeightSource, name: str, width: int, eps: float) -> LayerNorm:
    """The LayerNorm `name` of `weights`."""
    return LayerNorm(weights.take(f"{name}.weight", (width,)), weights.take(f"{name}.bias", (width,)), eps)


class PixelNorm:
    """RGB of 0..255 [..., 3], uint8 or float32 -> float32 with ImageNet's mean and deviation; a new tensor.

    Three float32 operations in the order of the references' transforms: the result is equal bit for bit.
    """

    def __init__(self, device: torch.device) -> None:
        self._mean = torch.tensor(IMAGENET_MEAN, dtype=torch.float32, device=device)
        self._std = torch.tensor(IMAGENET_STD, dtype=torch.float32, device=device)

    def __call__(self, pixels: Tensor) -> Tensor:
        return pixels.to(torch.float32, copy=True).div_(255).sub_(self._mean).div_(self._std)


def pixel_shuffle(x: Tensor, scale: int, transposed: bool) -> Tensor:
    """Merge each scale x scale block of a grid into one token: [N, h, w, C] -> [N, h*w / scale^2, C * scale^2].

    Channels are ordered (dy, dx, c); tokens row by row, or column by column where `transposed` (ps_version v1).
    """
    n, h, w, channels = x.shape
    blocks = x.view(n, h // scale, scale, w // scale, scale, channels)
    order = (0, 3, 1, 2, 4, 5) if transposed else (0, 1, 3, 2, 4, 5)
    return blocks.permute(order).reshape(n, -1, scale * scale * channels)


class Projector:
    """LayerNorm, Linear, exact GELU, Linear: visual channels to the decoder's hidden size (`mlp1`)."""

    def __init__(self, weights: WeightSource, prefix: str, in_features: int, hidden_size: int) -> None:
        self._norm = take_layer_norm(weights, f"{prefix}norm", in_features, eps=1e-5)
        self._fc1 = take_linear(weights, f"{prefix}fc1", (hidden_size,), in_features, bias=True)
        self._fc2 = take_linear(weights, f"{prefix}fc2", (hidden_size,), hidden_size, bias=True)

    def __call__(self, x: Tensor) -> Tensor:
        return self._fc2(self._fc1.gelu(self._norm(x)))


def run_through(parts: Generator[None, None, Tensor]) -> Tensor:
    """What comes at the end of a computation that yields in between."""
    while True:
        try:
            next(parts)
        except StopIteration as end:
            result: Tensor = end.value
            return result
