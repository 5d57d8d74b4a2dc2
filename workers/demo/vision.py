"""The vision tower and projector, with the released InternVL2 parameter names and arithmetic."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .shape import Dimensions


def position_table(grid: int, width: int) -> Tensor:
    """Sine-cosine start for the learned position table: places near each other start out alike."""
    quarter = width // 4
    rates = torch.exp(-math.log(40.0) * torch.arange(quarter) / quarter) * (math.pi / 2)
    angles = torch.arange(grid)[:, None] * rates[None]
    axis = torch.cat([angles.sin(), angles.cos()], 1)
    rows, columns = axis[:, None].expand(-1, grid, -1), axis[None].expand(grid, -1, -1)
    table = torch.cat([rows, columns], 2).reshape(grid * grid, width)
    return torch.cat([torch.zeros(1, width), table])[None] * 0.5


class Embeddings(nn.Module):
    def __init__(self, dims: Dimensions):
        super().__init__()
        width = dims.vision_width
        self.class_embedding = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.patch_embedding = nn.Conv2d(3, width, dims.patch, dims.patch)
        self.position_embedding = nn.Parameter(position_table(dims.grid, width))
        self.patch = dims.patch

    def forward(self, pixels: Tensor) -> Tensor:
        b, c, h, w = pixels.shape
        p = self.patch
        patches = pixels.view(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * p * p)
        x = F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)
        return torch.cat([self.class_embedding.expand(b, -1, -1).to(x.dtype), x], 1) + self.position_embedding.to(
            x.dtype
        )


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        with torch.no_grad():  # equal queries and keys: attention starts out on similar, hence near, places
            self.qkv.weight[width : 2 * width] = self.qkv.weight[:width]
            self.qkv.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        d = c // self.heads
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d).permute(2, 0, 3, 1, 4).reshape(3, b * self.heads, n, d)
        # Plain products: on a CPU their backward pass is several times faster than the fused attention's.
        mixed = torch.softmax(torch.bmm(q * d**-0.5, k.mT), -1) @ v
        return self.proj(mixed.view(b, self.heads, n, d).transpose(1, 2).reshape(b, n, c))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dims: Dimensions):
        super().__init__()
        width = dims.vision_width
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, dims.vision_heads)
        self.mlp = Mlp(width, dims.vision_hidden)
        self.ls1 = nn.Parameter(torch.full((width,), 0.5))
        self.ls2 = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1 * self.attn(self.norm1(x))
        return x + self.ls2 * self.mlp(self.norm2(x))


class Encoder(nn.Module):
    def __init__(self, dims: Dimensions):
        super().__init__()
        self.layers = nn.ModuleList(Block(dims) for _ in range(dims.vision_layers))


class VisionTower(nn.Module):
    """Pixels [B, 3, S, S] -> patch features [B, grid*grid, width]; the class token is dropped at the end."""

    def __init__(self, dims: Dimensions):
        super().__init__()
        self.embeddings = Embeddings(dims)
        self.encoder = Encoder(dims)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.embeddings(pixels)
        for layer in self.encoder.layers:
            x = layer(x)
        return x[:, 1:]


def pixel_shuffle(x: Tensor) -> Tensor:
    """Join each 2 x 2 patches into one token, ordering ``v2``."""
    b, n, c = x.shape
    grid = math.isqrt(n)
    x = x.view(b, grid // 2, 2, grid // 2, 2, c).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(b, n // 4, 4 * c)


def projector(dims: Dimensions) -> nn.Sequential:
    width = 4 * dims.vision_width
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, dims.text_width), nn.GELU(), nn.Linear(dims.text_width, dims.text_width)
    )
