"""InternViT: the vision tower of the InternVL models, every published size.

Source of the arithmetic: the authors' modeling_intern_vit. A feature layout of [N, 1 + patches, C], class token first.
"""

from collections.abc import Generator

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.models.base import ModelError, WeightSource
from workers.models.config import VisionSpec
from workers.models.layers import RMSNorm, run_through, take_layer_norm, take_rms_norm
from workers.models.linear import take_linear


class VisionLayer:
    """Pre-norm block; learned scales multiply the branches."""

    def __init__(self, spec: VisionSpec, weights: WeightSource, prefix: str) -> None:
        width = spec.hidden_size
        self._num_heads = spec.num_heads
        take_norm = take_rms_norm if spec.is_rms else take_layer_norm
        self._norm1 = take_norm(weights, f"{prefix}norm1", width, spec.norm_eps)
        self._qkv = take_linear(weights, f"{prefix}qkv", (width, width, width), width, spec.qkv_bias)
        self._qk_norm = _take_qk_norm(spec, weights, prefix) if spec.qk_norm else None
        self._out = take_linear(weights, f"{prefix}out", (width,), width, bias=True)
        self._scale1 = weights.take(f"{prefix}scale1", (width,))
        self._norm2 = take_norm(weights, f"{prefix}norm2", width, spec.norm_eps)
        self._fc1 = take_linear(weights, f"{prefix}fc1", (spec.intermediate_size,), width, bias=True)
        self._fc2 = take_linear(weights, f"{prefix}fc2", (width,), spec.intermediate_size, bias=True)
        self._scale2 = weights.take(f"{prefix}scale2", (width,))

    def __call__(self, x: Tensor) -> Tensor:
        """[N, P, C] -> [N, P, C]."""
        return self.feed_forward(self.attend(x))

    def attend(self, x: Tensor) -> Tensor:
        """The first half, [N, P, C] -> [N, P, C], a new tensor."""
        return torch.addcmul(x, self._attention(self._norm1(x)), self._scale1)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The second half, [N, P, C] -> [N, P, C]; writes over `x`."""
        branch = self._fc2(self._fc1.gelu(self._norm2(x)))
        return x.addcmul_(branch, self._scale2)

    def _attention(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        qkv = self._qkv(x).view(n, length, 3, width)
        qk, v = qkv.narrow(2, 0, 2), qkv.select(2, 2)
        if self._qk_norm is not None:
            qk = self._qk_norm(qk)
        q, k, v = (part.view(n, length, self._num_heads, -1).transpose(1, 2) for part in (*qk.unbind(2), v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self._out(mixed.transpose(1, 2).reshape(n, length, width))


def _take_qk_norm(spec: VisionSpec, weights: WeightSource, prefix: str) -> RMSNorm:
    """RMS over the whole width, all heads together, whatever the other norms are; weight [2, C]: q's row, k's row."""
    rows = [weights.take(f"{prefix}{x}_norm.weight", (spec.hidden_size,)) for x in "qk"]
    return RMSNorm(torch.stack(rows), spec.norm_eps)


class PatchEmbedding:
    """Patches as one matrix product, and the position table, whose row 0 is the class token's."""

    def __init__(self, width: int, image_size: int, patch_size: int, weights: WeightSource, prefix: str) -> None:
        self._size = patch_size
        self._patch = take_linear(weights, f"{prefix}patch", (width,), 3 * patch_size**2, bias=True)
        self._positions = weights.take(f"{prefix}positions", (1, 1 + (image_size // patch_size) ** 2, width))

    @property
    def class_position(self) -> Tensor:
        """[1, 1, C]."""
        return self._positions[:, :1]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [N, H, W, 3] -> [N, H/p * W/p, C], row by row."""
        n, height, width, _ = pixels.shape
        size = self._size
        if height % size or width % size:
            raise ModelError(f"a picture of {width} x {height} does not divide into patches of {size}")
        rows, columns = height // size, width // size
        blocks = pixels.view(n, rows, size, columns, size, 3).permute(0, 1, 3, 5, 2, 4)
        tokens = self._patch(blocks.reshape(n, rows * columns, 3 * size * size).to(self._positions.dtype))
        return tokens.add_(resize_positions(self._positions, rows, columns)[:, 1:])


class VisionTower:
    """Patch embedding, positions and blocks. `num_layers` of the spec are built: the published final norm is none."""

    def __init__(self, spec: VisionSpec, weights: WeightSource, prefix: str) -> None:
        self.spec = spec
        self._embedding = PatchEmbedding(spec.hidden_size, spec.image_size, spec.patch_size, weights, prefix)
        self._class_token = weights.take(f"{prefix}class_token", (1, 1, spec.hidden_size))
        self.layers = [VisionLayer(spec, weights, f"{prefix}layers.{i}.") for i in range(spec.num_layers)]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [N, H, W, 3] -> [N, 1 + H/14 * W/14, C], the last block's output."""
        return run_through(self.in_parts(pixels))

    def in_parts(self, pixels: Tensor) -> Generator[None, None, Tensor]:
        """As a call; yields before each layer."""
        x = self.embed(pixels)
        for layer in self.layers:
            yield
            x = layer(x)
        return x

    def embed(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [N, H, W, 3] -> [N, 1 + H/14 * W/14, C], what the first block takes."""
        patches = self._embedding(pixels)
        class_token = self._class_token + self._embedding.class_position
        return torch.cat((class_token.expand(len(patches), -1, -1), patches), dim=1)


def resize_positions(table: Tensor, rows: int, columns: int) -> Tensor:
    """[1, 1 + n*n, C] -> [1, 1 + rows*columns, C], bicubic in float32; the class token's row is kept."""
    side = round((table.shape[1] - 1) ** 0.5)
    if (rows, columns) == (side, side):
        return table
    grid = table[:, 1:].float().view(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
    return torch.cat((table[:, :1], grid.flatten(2).transpose(1, 2).to(table.dtype)), dim=1)
