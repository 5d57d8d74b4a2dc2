"""Low-rank adapters that a checkpoint keeps beside its weights: W + scale * B A, put together while it is read."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.models.base import ModelError


@dataclass(frozen=True, slots=True)
class Lora:
    """Which weights have an adapter, by the ends of their published names, and its scale (lora_alpha / lora_r)."""

    scale: float
    suffixes: tuple[str, ...]

    def adapter_names(self, name: str) -> tuple[str, str] | None:
        """The published names of A [r, in] and B [out, r] for a weight [out, in]; None where it has no adapter."""
        if not name.endswith(self.suffixes):
            return None
        module = name.removesuffix(".weight")
        return f"{module}.lora_A.default.weight", f"{module}.lora_B.default.weight"

    def merge(self, name: str, weight: Tensor, adapter: Mapping[str, Tensor]) -> Tensor:
        """The merged weight in float32. Raises ModelError where the shapes do not belong together."""
        (name_a, a), (name_b, b) = adapter.items()
        if a.dim() != 2 or (b.shape[0], a.shape[1]) != tuple(weight.shape) or b.shape[1:] != a.shape[:1]:
            raise ModelError(
                f"tensors {name_a} {list(a.shape)} and {name_b} {list(b.shape)} do not fit {name} {list(weight.shape)}"
            )
        return torch.addmm(weight.float(), b.float(), a.float(), alpha=self.scale)
