"""InternVL-Chat (V1-1 to InternVL3): InternViT tiles, pixel shuffle, two-layer projector, a text backbone."""

from collections.abc import Generator
from dataclasses import dataclass, replace

from torch import Tensor

from workers.attention.base import Step
from workers.models.base import ModelError, WeightSource
from workers.models.config import (
    Config,
    DecoderSpec,
    TileSpec,
    VisionSpec,
    choice,
    parse_decoder,
    parse_tile,
    parse_vision,
    section,
)
from workers.models.decoder import Decoder
from workers.models.internvit import VisionTower
from workers.models.layers import PixelNorm, Projector, pixel_shuffle, run_through


@dataclass(frozen=True, slots=True)
class InternVLSpec:
    """An InternVL-Chat checkpoint. `vision.num_layers` counts the blocks up to the one that `select_layer` reads."""

    vision: VisionSpec
    decoder: DecoderSpec
    tile: TileSpec
    is_shuffle_transposed: bool


def parse_internvl(config: Config) -> InternVLSpec:
    """config.json -> spec; missing keys take the defaults of the published configuration class."""
    if config.get("use_llm_lora") or config.get("use_backbone_lora"):
        raise ModelError("config.json: LoRA weights (use_llm_lora, use_backbone_lora) must be merged before serving")
    vision = parse_vision(section(config, "vision_config"))
    return InternVLSpec(
        vision=replace(vision, num_layers=_layers_used(config.get("select_layer", -1), vision.num_layers)),
        decoder=parse_decoder(section(config, "llm_config")),
        tile=parse_tile(config, vision.image_size, vision.patch_size),
        is_shuffle_transposed=choice(config, "ps_version", "v1", ("v1", "v2")) == "v1",
    )


def _layers_used(select_layer: object, num_layers: int) -> int:
    """How many blocks run: `select_layer` indexes num_layers + 1 states, the first of which is the embedding."""
    if not isinstance(select_layer, int) or not -num_layers <= select_layer <= num_layers or select_layer == 0:
        raise ModelError(f"config.json: select_layer {select_layer!r} is not a layer of {num_layers}")
    return select_layer if select_layer > 0 else num_layers + 1 + select_layer


class InternVL:
    """The model that the engine runs; see `VisionLanguageModel`."""

    def __init__(self, config: Config, weights: WeightSource) -> None:
        spec = parse_internvl(config)
        width = spec.vision.hidden_size * spec.tile.scale**2
        self.device = weights.device
        self.dtype = weights.dtype
        self.hidden_size = spec.decoder.hidden_size
        self.vocab_size = spec.decoder.vocab_size
        self.image_size = spec.tile.image_size
        self.tokens_per_tile = spec.tile.num_tokens
        self.max_position_embeddings = spec.decoder.rope.max_position
        self.rope_extends = spec.decoder.rope.kind != "default"
        self._spec = spec
        self._pixel_norm = PixelNorm(weights.device)
        self._tower = VisionTower(spec.vision, weights, "vision.")
        self._projector = Projector(weights, "projector.", width, self.hidden_size)
        self._decoder = Decoder(spec.decoder, weights, "decoder.")
        self.kv_spec = self._decoder.kv_spec

    def encode_tiles(self, pixels: Tensor) -> Tensor:
        """uint8 [N, S, S, 3] -> [N, tokens_per_tile, H]."""
        return run_through(self.encode_in_parts(pixels))

    def encode_in_parts(self, pixels: Tensor) -> Generator[None, None, Tensor]:
        """See EncodesInParts."""
        grid, scale = self._spec.tile.grid, self._spec.tile.scale
        rows = yield from self._tower.in_parts(self._pixel_norm(pixels))
        features = rows[:, 1:].reshape(len(pixels), grid, grid, -1)
        return self._projector(pixel_shuffle(features, scale, self._spec.is_shuffle_transposed))

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
