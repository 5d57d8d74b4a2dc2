"""PVC-InternVL2: pictures as short static clips, 64 tokens a frame or tile; else InternVL-Chat with an InternLM2.

What is known of the family is here; what had to be guessed is in `pvc_temporal`, and only there.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.attention.base import Step
from workers.models.base import ModelError, WeightSource
from workers.models.config import Config, boolean, positive_int, section
from workers.models.decoder import Decoder
from workers.models.internvit import VisionTower
from workers.models.internvl import InternVLSpec, parse_internvl
from workers.models.layers import PixelNorm, Projector, pixel_shuffle
from workers.models.pvc_temporal import (
    TemporalLayers,
    TemporalProjector,
    TemporalSpec,
    TimestampEmbedding,
    group_frames,
    parse_temporal,
    splice_order,
)


@dataclass(frozen=True, slots=True)
class PVCSpec:
    """A PVC checkpoint. `chat`: what it has in common with InternVL-Chat; temporal: None under `use_temporal` false."""

    chat: InternVLSpec
    num_image_repeats: int
    temporal: TemporalSpec | None


def parse_pvc(config: Config) -> PVCSpec:
    """config.json -> spec. Raises ModelError, also for values of which nobody here knows what they do."""
    for key in ("tile_repeat_way", "mlp_add_ops"):
        if config.get(key) is not None:
            raise ModelError(f"config.json: {key} is {config[key]!r}; what it does is not known here, only null is")
    if positive_int(config, "video_repeat_time", 1) != 1:
        raise ModelError(f"config.json: video_repeat_time is {config['video_repeat_time']}; only 1 is supported")
    chat = parse_internvl(config)
    raw_vision = section(config, "vision_config")
    if chat.vision.num_layers != positive_int(raw_vision, "num_hidden_layers", chat.vision.num_layers):
        raise ModelError(f"config.json: select_layer {config['select_layer']!r} is not supported here, only -1 is")
    temporal = parse_temporal(raw_vision, chat.vision) if boolean(config, "use_temporal", False) else None
    return PVCSpec(chat, positive_int(config, "image_repeat_time", 1), temporal)


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """All tiles of one picture, or all frames of one clip: uint8 [N, S, S, 3]. They are only encoded together."""

    pixels: NDArray[np.uint8]
    is_clip: bool


class PVC:
    """The model that the engine runs; see `VisionLanguageModel`. A tile is one frame of a clip."""

    def __init__(self, config: Config, weights: WeightSource) -> None:
        spec = parse_pvc(config)
        chat, width = spec.chat, spec.chat.vision.hidden_size
        self.device = weights.device
        self.dtype = weights.dtype
        self.hidden_size = chat.decoder.hidden_size
        self.vocab_size = chat.decoder.vocab_size
        self.image_size = chat.tile.image_size
        self.tokens_per_tile = chat.tile.num_tokens
        self.max_position_embeddings = chat.decoder.rope.max_position
        self.rope_extends = chat.decoder.rope.kind != "default"
        self._spec = spec
        self._pixel_norm = PixelNorm(weights.device)
        self._tower = VisionTower(chat.vision, weights, "vision.")
        in_features = width * chat.tile.scale**2
        if spec.temporal is None:
            self._plain_projector = Projector(weights, "projector.", in_features, self.hidden_size)
        else:
            self._times = TimestampEmbedding(width, weights, "times.")
            self._temporal = TemporalLayers(spec.temporal, weights, "temporal.")
            self._projector = TemporalProjector(in_features, self.hidden_size, width, weights, "projector.")
        self._decoder = Decoder(chat.decoder, weights, "decoder.")
        self.kv_spec = self._decoder.kv_spec

    def encode_inputs(self, inputs: Frames) -> Tensor:
        """See `EncodesInputs`: a picture -> [repeats * tiles * tokens_per_tile, H], a clip -> [frames * ..., H]."""
        pixels = torch.from_numpy(inputs.pixels).to(self.device)
        num_repeats = 1 if inputs.is_clip else self._spec.num_image_repeats
        return splice_order(self.encode_tiles(group_frames(pixels, inputs.is_clip), num_repeats))

    def encode_tiles(self, pixels: Tensor, num_repeats: int = 1) -> Tensor:
        """uint8 [G, F, S, S, 3], F = 1 where they are repeated -> [G, T, tokens_per_tile, H], T = F * num_repeats."""
        groups, frames = pixels.shape[:2]
        if self._spec.temporal is None:
            flat = self._tower(self._pixel_norm(pixels.flatten(0, 1)))
            rows = self._plain_projector(self._shuffle(flat.view(groups, frames, *flat.shape[1:])))
            return rows.repeat(1, num_repeats, 1, 1)
        times = self._times(frames * num_repeats)
        features = self._temporal(self._tower, self._pixel_norm(pixels), times)
        return self._projector(self._shuffle(features), times)

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
        return self._spec.chat.decoder.rope.regime(length)

    def _shuffle(self, features: Tensor) -> Tensor:
        """[G, T, 1 + patches, C] -> [G, T, tokens_per_tile, C * scale^2]; the class token is dropped."""
        tile = self._spec.chat.tile
        groups, frames = features.shape[:2]
        patches = features[:, :, 1:].reshape(groups * frames, tile.grid, tile.grid, -1)
        rows = pixel_shuffle(patches, tile.scale, self._spec.chat.is_shuffle_transposed)
        return rows.view(groups, frames, *rows.shape[1:])
