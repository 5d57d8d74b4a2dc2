"""Rotary position embedding with a frequency set of its own for every token.

Dynamic NTK and longrope choose frequencies by the length of the sequence; in a packed batch that is a per-token choice.
Keys already cached keep the rotation that they got, as in the references.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

RopeKind = Literal["default", "dynamic", "longrope"]


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """How a decoder rotates; `plain_length` is the longest sequence that is rotated as a short one is."""

    kind: RopeKind
    theta: float
    max_position: int
    plain_length: int
    factor: float = 1.0
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()

    def regime(self, length: int) -> int:
        """0 for plain lengths; beyond them every length is a regime of its own (dynamic), or all are one (longrope)."""
        if self.kind == "default" or length <= self.plain_length:
            return 0
        return length if self.kind == "dynamic" else 1


class Rope:
    """Half-split (NeoX) rotation of [T, heads, head_dim]."""

    def __init__(self, spec: RopeSpec, head_dim: int, device: torch.device, dtype: torch.dtype) -> None:
        self._spec = spec
        self._half = head_dim // 2
        self._dtype = dtype
        self._ntk_power = head_dim / (head_dim - 2) if head_dim > 2 else 1.0
        if device.type == "meta":
            # A model that is only measured rotates nothing, and arithmetic there brings in torch's compiler: 1.3 s.
            return
        self._exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
        self._short = torch.tensor(spec.short_factors, dtype=torch.float32, device=device)
        self._long = torch.tensor(spec.long_factors, dtype=torch.float32, device=device)
        self._scale = 1.0
        if spec.kind == "longrope" and spec.max_position > spec.plain_length:
            self._scale = math.sqrt(1 + math.log(spec.max_position / spec.plain_length) / math.log(spec.plain_length))
        positions = torch.arange(spec.plain_length, device=device)
        self._plain_cos, self._plain_sin = self._rotation(positions, torch.ones_like(positions))
        # Looking at the lengths would make the host wait for an accelerator: there all lengths are computed.
        self._can_peek = device.type == "cpu"

    def __call__(self, positions: Tensor, rope_lens: Tensor) -> tuple[Tensor, Tensor]:
        """positions, rope_lens int64 [T] -> cos, sin [T, 1, head_dim], the first half of sin negated."""
        if self._spec.kind == "default" or (self._can_peek and int(rope_lens.max()) <= self._spec.plain_length):
            return self._plain_cos[positions], self._plain_sin[positions]
        return self._rotation(positions, rope_lens)

    def rotate_(self, x: Tensor, cos: Tensor, sin: Tensor) -> None:
        """Overwrite x [T, heads, head_dim], a view or not, with its rotation."""
        swapped = torch.roll(x, self._half, -1)
        x.mul_(cos).addcmul_(swapped, sin)

    def _rotation(self, positions: Tensor, rope_lens: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions.to(torch.float32)[:, None] * self._inverse_frequencies(rope_lens)
        cos = angles.cos().mul_(self._scale)
        sin = angles.sin().mul_(self._scale)
        both_cos = torch.cat((cos, cos), dim=-1)[:, None].to(self._dtype)
        return both_cos, torch.cat((-sin, sin), dim=-1)[:, None].to(self._dtype)

    def _inverse_frequencies(self, rope_lens: Tensor) -> Tensor:
        """[T] -> [T or 1, head_dim / 2]."""
        spec = self._spec
        if spec.kind == "default":
            return 1.0 / (spec.theta**self._exponents)[None]
        if spec.kind == "longrope":
            factors = torch.where((rope_lens > spec.plain_length)[:, None], self._long, self._short)
            return 1.0 / (factors * spec.theta**self._exponents)
        # Dynamic NTK: theta * (f * n / M - (f - 1)) ** (D / (D - 2)); the bracket is 1 at n = M and stays so below.
        growth = (spec.factor * rope_lens.to(torch.float64) / spec.max_position - (spec.factor - 1)).clamp_(min=1.0)
        bases = (spec.theta * growth**self._ntk_power).to(torch.float32)
        return 1.0 / bases[:, None] ** self._exponents
