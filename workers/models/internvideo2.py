"""InternVideo2-Chat (VideoChat2 architecture): video tower, Q-Former, one projection, a Mistral text backbone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.attention.base import Step
from workers.models.base import WeightSource
from workers.models.config import Config
from workers.models.decoder import Decoder
from workers.models.internvideo2_config import parse_internvideo2
from workers.models.internvideo2_vision import VideoTower
from workers.models.layers import PixelNorm, take_layer_norm
from workers.models.linear import take_linear
from workers.models.qformer import QFormer

_BRIDGE_NORM_EPS = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One square of every frame, float32 [T, S, S, 3] of 0..255, and BERT's ids of an instruction to read it with."""

    pixels: NDArray[np.float32]
    text_ids: tuple[int, ...] = ()


class InternVideo2:
    """The model that the engine runs; see `VisionLanguageModel`. A tile is a `View`'s square."""

    def __init__(self, config: Config, weights: WeightSource) -> None:
        spec = parse_internvideo2(config)
        self.device = weights.device
        self.dtype = weights.dtype
        self.hidden_size = spec.decoder.hidden_size
        self.vocab_size = spec.decoder.vocab_size
        self.image_size = spec.vision.image_size
        self.tokens_per_tile = spec.qformer.num_tokens
        self.max_position_embeddings = spec.decoder.rope.max_position
        self.rope_extends = spec.decoder.rope.kind != "default"
        self._spec = spec
        self._pixel_norm = PixelNorm(weights.device)
        self._tower = VideoTower(spec.vision, spec.num_frames, weights, "vision.")
        self._norm = take_layer_norm(weights, "vision_norm", spec.vision.hidden_size, _BRIDGE_NORM_EPS)
        self._qformer = QFormer(spec.qformer, weights, "qformer.")
        self._project = take_linear(weights, "project", (self.hidden_size,), spec.qformer.hidden_size, bias=True)
        self._decoder = Decoder(spec.decoder, weights, "decoder.")
        self.kv_spec = self._decoder.kv_spec

    def encode_inputs(self, inputs: View) -> Tensor:
        """See `EncodesInputs`: a view -> [tokens_per_tile, H]."""
        return self.encode_tiles(torch.from_numpy(inputs.pixels)[None].to(self.device), inputs.text_ids)[0]

    def encode_tiles(self, pixels: Tensor, text_ids: Sequence[int] = ()) -> Tensor:
        """Squares of views [N, T, S, S, 3] -> [N, tokens_per_tile, H]."""
        features = self._norm(self._tower(self._pixel_norm(pixels)))
        return self._project(self._qformer(features, text_ids))

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """int64 [T] -> [T, H], a new tensor."""
        return self._decoder.embed_tokens(ids)

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        """[T, H] -> [T, H] with the final norm applied."""
        return self._decoder.forward(hidden, step)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """[R, H] -> float32 [R, V]."""
        return self._decoder.compute_logits(hidden)

    def rope_regime(self, length: int) -> int:
        """0 while a sequence of this length is rotated as a short one is."""
        return self._spec.decoder.rope.regime(length)
