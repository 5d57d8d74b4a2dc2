"""InternVL-Chat (V1-1 to InternVL3): InternViT tiles, pixel shuffle, two-layer projector, a text backbone."""

from dataclasses import dataclass, replace

from torch import Tensor

from workers.attention.base import Step
from workers.models.base import ModelError, WeightSource
from workers.models.config import (
    Config,
    DecoderSpec,
    VisionSpec,
    choice,
    parse_decoder,
    parse_vision,
    positive_float,
    positive_int,
    section,
)
from workers.models.decoder import Decoder
from workers.models.internvit import VisionTower
from workers.models.layers import PixelNorm, Projector, pixel_shuffle


@dataclass(frozen=True, slots=True)
class InternVLSpec:
    """An InternVL-Chat checkpoint. `vision.num_layers` counts the blocks up to the one that `select_layer` reads."""

    vision: VisionSpec
    decoder: DecoderSpec
    image_size: int
    shuffle_scale: int
    is_shuffle_transposed: bool

    @property
    def grid(self) -> int:
        """Patches along a tile's side."""
        return self.image_size // self.vision.patch_size

    @property
    def tokens_per_tile(self) -> int:
        return (self.grid // self.shuffle_scale) ** 2


def parse_internvl(config: Config) -> InternVLSpec:
    """config.json -> spec; missing keys take the defaults of the published configuration class."""
    if config.get("use_llm_lora") or config.get("use_backbone_lora"):
        raise ModelError("config.json: LoRA weights (use_llm_lora, use_backbone_lora) must be merged before serving")
    vision = parse_vision(section(config, "vision_config"))
    scale = 1 / positive_float(config, "downsample_ratio", 0.5)
    spec = InternVLSpec(
        vision=replace(vision, num_layers=_layers_used(config.get("select_layer", -1), vision.num_layers)),
        decoder=parse_decoder(section(config, "llm_config")),
        image_size=positive_int(config, "force_image_size", vision.image_size),
        shuffle_scale=round(scale),
        is_shuffle_transposed=choice(config, "ps_version", "v1", ("v1", "v2")) == "v1",
    )
    if spec.image_size % vision.patch_size:
        raise ModelError(
            f"config.json: image size {spec.image_size} is not a multiple of the patch {vision.patch_size}"
        )
    if scale < 1 or abs(scale - spec.shuffle_scale) > 1e-6 or spec.grid % spec.shuffle_scale:
        raise ModelError(
            f"config.json: downsample_ratio must divide {spec.grid} x {spec.grid} patches into whole tokens"
        )
    return spec


def _layers_used(select_layer: object, num_layers: int) -> int:
    """How many blocks run: `select_layer` indexes num_layers + 1 states, the first of which is the embedding."""
    if not isinstance(select_layer, int) or not -num_layers <= select_layer <= num_layers or select_layer == 0:
        raise ModelError(f"config.json: select_layer {select_layer!r} is not a layer of {num_layers}")
    return select_layer if select_layer > 0 else num_layers + 1 + select_layer


class InternVL:
    """The model that the engine runs; see `VisionLanguageModel`."""

    def __init__(self, config: Config, weights: WeightSource) -> None:
        spec = parse_internvl(config)
        width = spec.vision.hidden_size * spec.shuffle_scale**2
        self.device = weights.device
        self.dtype = weights.dtype
        self.hidden_size = spec.decoder.hidden_size
        self.vocab_size = spec.decoder.vocab_size
        self.image_size = spec.image_size
        self.tokens_per_tile = spec.tokens_per_tile
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
        grid = self._spec.grid
        features = self._tower(self._pixel_norm(pixels))[:, 1:].reshape(len(pixels), grid, grid, -1)
        return self._projector(pixel_shuffle(features, self._spec.shuffle_scale, self._spec.is_shuffle_transposed))

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
