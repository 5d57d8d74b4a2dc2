"""Small pieces that several families share: norms, pixel normalisation, pixel shuffle, the two-layer projector."""

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.models.base import WeightSource
from workers.models.linear import take_linear

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Norm:
    """LayerNorm (with bias) or RMSNorm (without) over the last dimension."""

    __slots__ = ("bias", "eps", "is_rms", "weight", "width")

    def __init__(self, weights: WeightSource, name: str, width: int, eps: float, is_rms: bool) -> None:
        self.weight = weights.take(f"{name}.weight", (width,))
        self.bias = None if is_rms else weights.take(f"{name}.bias", (width,))
        self.width = (width,)
        self.eps = eps
        self.is_rms = is_rms

    def __call__(self, x: Tensor) -> Tensor:
        if self.is_rms:
            return F.rms_norm(x, self.width, self.weight, self.eps)
        return F.layer_norm(x, self.width, self.weight, self.bias, self.eps)


class PixelNorm:
    """uint8 RGB [..., 3] -> float32 with ImageNet's mean and deviation.

    Three float32 operations in the order of the references' transforms: the result is equal bit for bit.
    """

    def __init__(self, device: torch.device) -> None:
        self._mean = torch.tensor(IMAGENET_MEAN, dtype=torch.float32, device=device)
        self._std = torch.tensor(IMAGENET_STD, dtype=torch.float32, device=device)

    def __call__(self, pixels: Tensor) -> Tensor:
        return pixels.to(torch.float32).div_(255).sub_(self._mean).div_(self._std)


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
        self._norm = Norm(weights, f"{prefix}norm", in_features, eps=1e-5, is_rms=False)
        self._fc1 = take_linear(weights, f"{prefix}fc1", (hidden_size,), in_features, bias=True)
        self._fc2 = take_linear(weights, f"{prefix}fc2", (hidden_size,), hidden_size, bias=True)

    def __call__(self, x: Tensor) -> Tensor:
        return self._fc2(F.gelu(self._fc1(self._norm(x))))
