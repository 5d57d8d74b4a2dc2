"""The one place where a weight matrix meets activations."""

import torch.nn.functional as F
from torch import Tensor

from workers.models.base import WeightSource


class Linear:
    """y = x W^T + b with W [out_features, in_features]."""

    __slots__ = ("weight", "bias", "shape")

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def take_linear(
    weights: WeightSource, name: str, out_parts: tuple[int, ...], in_features: int, bias: bool = False
) -> Linear:
    """The layer `name` of `weights`; its rows are the blocks `out_parts`, stacked."""
    out_features = sum(out_parts)
    weight = weights.take(f"{name}.weight", (out_features, in_features), out_parts)
    return Linear(weight, weights.take(f"{name}.bias", (out_features,), out_parts) if bias else None)
