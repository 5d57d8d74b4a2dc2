"""The size of the model, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dimensions:
    """About 3.8 million parameters: most in vision, since the language is small and the looking is not."""

    image: int = 120
    patch: int = 10
    vision_width: int = 192
    vision_layers: int = 5
    vision_heads: int = 6
    vision_hidden: int = 576
    text_width: int = 192
    text_layers: int = 4
    text_heads: int = 6
    text_kv_heads: int = 3
    text_hidden: int = 384
    rope_theta: float = 100000.0
    rms_eps: float = 1e-6

    @property
    def grid(self) -> int:
        """Patches along one side of the tile."""
        return self.image // self.patch

    @property
    def cells(self) -> int:
        """Visual tokens along one side of the tile."""
        return self.grid // 2

    @property
    def tokens(self) -> int:
        """Visual tokens of one tile."""
        return self.cells**2
