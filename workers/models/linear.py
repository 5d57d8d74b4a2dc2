"""The one place where a weight matrix meets activations.

On a CPU, weights are kept in oneDNN's blocked layout: F.linear takes 1.1 to 1.7 times as long in float32 from 16 rows
on and 1.05 to 2 times in bfloat16 at all sizes, and oneDNN's rows depend less on how many others share the product.
PyTorch's public doors to it (torch.utils.mkldnn, torch._C._nn.mkldnn_linear) convert both sides of every call and gain
nothing, so two private operators are used, after a probe that they exist and agree with F.linear.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.models.base import WeightSource

MIN_PACKED_ELEMENTS = 1 << 16
"""A packed call costs about 10 microseconds more in dispatch: smaller matrices are left as they are."""
MAX_EXACT_ROWS = 16
"""From here on a packed layer takes some rows of zeros with it, an eighth at most."""


def padded_rows(num_rows: int) -> int:
    """The least number of rows, not below this, that packed layers should be given: 16, then eight to each doubling.

    For each new number oneDNN builds kernels and keeps them, up to 1,024 of a thread and as many of the process. That
    takes 0.4 to 0.8 ms and 0.3 to 1 MiB for each shape of weights (of 192 x 384 to 256 x 768, float32): prompts of all
    lengths would do it in every other step, and fill a gigabyte.
    """
    if num_rows <= MAX_EXACT_ROWS:
        return num_rows
    step = 1 << ((num_rows - 1).bit_length() - 4)
    return -(-num_rows // step) * step


class Linear:
    """y = x W^T + b with W [out_features, in_features]; a packed layer does not keep the plain weight."""

    __slots__ = ("_bias", "_run_packed", "_weight")

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        is_packed = weight.device.type == "cpu" and weight.numel() >= MIN_PACKED_ELEMENTS and can_pack(weight.dtype)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight) if is_packed else weight
        self._bias = bias
        self._run_packed = torch.ops.mkldnn._linear_pointwise.default if is_packed else None

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        if self._run_packed is None:
            return F.linear(x, self._weight, self._bias)
        y: Tensor = self._run_packed(x, self._weight, self._bias, "none", [], "")
        return y

    def gelu(self, x: Tensor) -> Tensor:
        """The layer and an exact GELU after it, as one operation where packed."""
        if self._run_packed is None:
            return F.gelu(F.linear(x, self._weight, self._bias))
        y: Tensor = self._run_packed(x, self._weight, self._bias, "gelu", [], "none")
        return y

    @property
    def is_packed(self) -> bool:
        return self._run_packed is not None


def take_linear(
    weights: WeightSource, name: str, out_parts: tuple[int, ...], in_features: int, bias: bool = False
) -> Linear:
    """The layer `name` of `weights`; its rows are the blocks `out_parts`, stacked."""
    out_features = sum(out_parts)
    offset = weights.take(f"{name}.bias", (out_features,), out_parts) if bias else None
    return Linear(weights.take(f"{name}.weight", (out_features, in_features), out_parts), offset)


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build and processor have the oneDNN operators for `dtype`, and they compute what F.linear does."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in ((3, 32), (48, 32), (48,)))
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        found = torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return False
    tolerance = 64 * torch.finfo(dtype).eps
    return torch.allclose(
        found.float(), F.linear(x.float(), weight.float(), bias.float()), rtol=tolerance, atol=tolerance
    )
