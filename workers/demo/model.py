"""The whole model in training form; its state under the released names is the checkpoint."""

from __future__ import annotations

from torch import Tensor, nn

from .dense import DenseHeads
from .pretrain import normalise
from .shape import Dimensions
from .text import LanguageModel, Sight
from .vision import VisionTower, pixel_shuffle, projector


class Demo(nn.Module):
    """Vision tower, projector and language model; the dense heads only help training."""

    def __init__(self, dims: Dimensions, vocabulary: int, image_token: int):
        super().__init__()
        self.vision_model = VisionTower(dims)
        self.mlp1 = projector(dims)
        self.language_model = LanguageModel(dims, vocabulary)
        self.heads = DenseHeads(dims)
        self.image_token = image_token

    def patches(self, tiles: Tensor) -> Tensor:
        """uint8 tiles [B, S, S, 3] -> patch features [B, 4 T, vision width]."""
        return self.vision_model(normalise(tiles).to(self.vision_model.embeddings.class_embedding.dtype))

    def tokens(self, patches: Tensor) -> Tensor:
        """Patch features -> visual tokens [B, T, width]."""
        return self.mlp1(pixel_shuffle(patches))

    def hidden(self, ids: Tensor, visual: Tensor, positions: Tensor, sight: Sight) -> Tensor:
        """Put the visual tokens, in order, where the prompt keeps places for them; then read."""
        x = self.language_model.model.embed_tokens(ids)
        places = ids == self.image_token
        if places.any():
            x = x.masked_scatter(places[..., None], visual.to(x.dtype))
        return self.language_model(x, positions, sight)
