"""InternVideo2's video tower: InternViT blocks over the patches of all frames together.

Source of the arithmetic: the authors' modeling_internvideo2_vit. Features are [N, 1 + T * patches, C], class token
first, then patches by frame, row and column.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.models.base import WeightSource
from workers.models.config import VisionSpec
from workers.models.internvit import VisionLayer
from workers.models.linear import take_linear


class VideoTower:
    """Patch embedding, positions in space and time, blocks; there is no final norm."""

    def __init__(self, spec: VisionSpec, num_frames: int, weights: WeightSource, prefix: str) -> None:
        width, patch = spec.hidden_size, spec.patch_size
        self._patch_size = patch
        self._num_frames = num_frames
        self._num_patches = (spec.image_size // patch) ** 2
        self._patch = take_linear(weights, f"{prefix}patch", (width,), 3 * patch * patch, bias=True)
        self._class_token = weights.take(f"{prefix}class_token", (1, 1, width))
        self._positions = weights.take(f"{prefix}positions", (1, 1 + num_frames * self._num_patches, width))
        self._image_positions = weights.take(f"{prefix}image_positions", (1, 1 + self._num_patches, width))
        self._layers = [VisionLayer(spec, weights, f"{prefix}layers.{i}.") for i in range(spec.num_layers)]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [N, T, S, S, 3] -> [N, 1 + T * patches, C], the last block's output."""
        x = self._embed(pixels)
        for layer in self._layers:
            x = layer(x)
        return x

    def _embed(self, pixels: Tensor) -> Tensor:
        n, frames, size, _, _ = pixels.shape
        patch = self._patch_size
        side = size // patch
        blocks = pixels.view(n, frames, side, patch, side, patch, 3).permute(0, 1, 2, 4, 6, 3, 5)
        tokens = self._patch(blocks.reshape(n, -1, 3 * patch * patch).to(self._class_token.dtype))
        tokens = torch.cat((self._class_token.expand(n, -1, -1), tokens), dim=1)
        return tokens + self._positions_of(frames)

    def _positions_of(self, frames: int) -> Tensor:
        """A single frame has a table of its own, also where it comes from a clip."""
        if frames == 1:
            return self._image_positions
        return resize_in_time(self._positions, self._num_frames, frames)


def resize_in_time(table: Tensor, stored: int, frames: int) -> Tensor:
    """[1, 1 + stored * P, C] -> [1, 1 + frames * P, C], linear in float32; the class token's row is kept."""
    if frames == stored:
        return table
    width = table.shape[2]
    tracks = table[:, 1:].float().view(stored, -1).t()[None]
    tracks = F.interpolate(tracks, size=frames, mode="linear", align_corners=False)[0].t()
    return torch.cat((table[:, :1], tracks.reshape(1, -1, width).to(table.dtype)), dim=1)
