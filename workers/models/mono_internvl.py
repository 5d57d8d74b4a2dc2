"""Mono-InternVL: no vision encoder. Patches go straight into a decoder whose layers have an MLP for visual tokens."""

from dataclasses import dataclass

from torch import Tensor

from workers.attention.base import Step
from workers.models.base import WeightSource
from workers.models.config import Config, DecoderSpec, TileSpec, parse_decoder, parse_tile, positive_int, section
from workers.models.decoder import Decoder
from workers.models.internvit import PatchEmbedding
from workers.models.layers import PixelNorm, Projector, pixel_shuffle


@dataclass(frozen=True, slots=True)
class MonoInternVLSpec:
    """A Mono-InternVL checkpoint; the position table is stored for `native_size`."""

    vision_width: int
    native_size: int
    tile: TileSpec
    decoder: DecoderSpec


def parse_mono_internvl(config: Config) -> MonoInternVLSpec:
    """config.json -> spec. `vision_config` still names an encoder's sizes, which nothing has, and they are not read."""
    vision = section(config, "vision_config")
    native_size = positive_int(vision, "image_size", 224)
    return MonoInternVLSpec(
        vision_width=positive_int(vision, "hidden_size", 3200),
        native_size=native_size,
        tile=parse_tile(config, native_size, positive_int(vision, "patch_size", 14)),
        decoder=parse_decoder(section(config, "llm_config")),
    )


class MonoInternVL:
    """The model that the engine runs; see `VisionLanguageModel`."""

    def __init__(self, config: Config, weights: WeightSource) -> None:
        spec = parse_mono_internvl(config)
        tile, width = spec.tile, spec.vision_width
        self.device = weights.device
        self.dtype = weights.dtype
        self.hidden_size = spec.decoder.hidden_size
        self.vocab_size = spec.decoder.vocab_size
        self.image_size = tile.image_size
        self.tokens_per_tile = tile.num_tokens
        self.max_position_embeddings = spec.decoder.rope.max_position
        self.rope_extends = spec.decoder.rope.kind != "default"
        self._spec = spec
        self._pixel_norm = PixelNorm(weights.device)
        self._patches = PatchEmbedding(width, spec.native_size, tile.patch_size, weights, "patches.")
        self._projector = Projector(weights, "projector.", width * tile.scale**2, self.hidden_size)
        self._decoder = Decoder(spec.decoder, weights, "decoder.")
        self.kv_spec = self._decoder.kv_spec

    def encode_tiles(self, pixels: Tensor) -> Tensor:
        """uint8 [N, S, S, 3] -> [N, tokens_per_tile, H]."""
        tile = self._spec.tile
        patches = self._patches(self._pixel_norm(pixels)).view(len(pixels), tile.grid, tile.grid, -1)
        return self._projector(pixel_shuffle(patches, tile.scale, transposed=False))

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """int64 [T] -> [T, H], a new tensor."""
        return self._decoder.embed_tokens(ids)

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        """[T, H] -> [T, H] with the final norm applied; whatever is sampled goes the way of text."""
        return self._decoder.forward(hidden, step)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """[R, H] -> float32 [R, V]."""
        return self._decoder.compute_logits(hidden)

    def rope_regime(self, length: int) -> int:
        """0 while a sequence of this length is rotated as a short one is."""
        return self._spec.decoder.rope.regime(length)
