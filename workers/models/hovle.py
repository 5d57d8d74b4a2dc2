"""HoVLE: patches and text go through a causal stack of their own before the backbone. No vision encoder.

Both stacks are causal over the same tokens and keep keys and values, each for itself. In the plain layout (`pre`) they
see the same rows. In the other one (`post`, HoVLE-HD) the lower stack sees every patch as a row, and only behind it do
four of them become one visual token; rows that go in hold the parts of a token side by side, text in the first.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.attention.base import Step
from workers.models.base import ModelError, Unfolding, WeightSource
from workers.models.config import (
    Config,
    DecoderSpec,
    TileSpec,
    boolean,
    choice,
    parse_decoder,
    parse_tile,
    positive_float,
    positive_int,
    section,
)
from workers.models.decoder import LayerStack
from workers.models.internvit import PatchEmbedding
from workers.models.layers import PixelNorm, pixel_shuffle, take_rms_norm
from workers.models.linear import take_linear


@dataclass(frozen=True, slots=True)
class HoVLESpec:
    """A HoVLE checkpoint; the position table is stored for `native_size`."""

    native_size: int
    tile: TileSpec
    lower: DecoderSpec
    decoder: DecoderSpec
    num_special_tokens: int
    """Rows of the second text table, whose ids follow those of the first."""
    normalises: bool
    """Whether the rows that enter the backbone are divided by their length."""
    unfolding: Unfolding | None

    @property
    def fixed_lengths(self) -> list[int]:
        """The longest sequence of each stack whose rotation knows no longer ones."""
        parts = self.unfolding.parts if self.unfolding else 1
        rope = self.lower.rope
        lengths = [rope.max_position] if rope.kind == "default" else []
        if rope.kind != "default" and parts > 1:
            # What counts below is the unfolded length; within this limit it always lies where the rotation is plain.
            lengths = [rope.plain_length // parts]
        return lengths + ([self.decoder.rope.max_position] if self.decoder.rope.kind == "default" else [])


def parse_hovle(config: Config) -> HoVLESpec:
    """config.json -> spec. Raises ModelError."""
    raw = section(config, "embedding_config")
    native_size = positive_int(raw, "image_size")
    tile = parse_tile(config, native_size, positive_int(raw, "patch_size"))
    lower = parse_decoder(
        {
            **raw,
            "architectures": ["InternLM2ForCausalLM"],
            "bias": boolean(raw, "attention_bias", False),
            "vocab_size": positive_int(raw, "llm_vocab_size"),
        }
    )
    decoder = parse_decoder(section(config, "llm_config"))
    if lower.hidden_size != decoder.hidden_size:
        sizes = f"{lower.hidden_size} and {decoder.hidden_size}"
        raise ModelError(f"config.json: hidden_size of embedding_config and llm_config differ: {sizes}")
    if boolean(raw, "use_ls", False) or not boolean(raw, "use_pixel_shuffle_proj", True):
        raise ModelError("config.json: use_ls must be false and use_pixel_shuffle_proj true in embedding_config")
    if round(1 / positive_float(raw, "downsample_ratio", 1 / tile.scale)) != tile.scale:
        raise ModelError("config.json: downsample_ratio of embedding_config is not that of the model")
    unfolding = None
    if choice(raw, "pixel_shuffle_loc", "pre", ("pre", "post")) == "post":
        unfolding = Unfolding(tile.token_grid, tile.scale)
    return HoVLESpec(
        native_size=native_size,
        tile=tile,
        lower=_with_table(lower, unfolding),
        decoder=decoder,
        num_special_tokens=len(raw.get("special_token_maps") or ()),
        normalises=boolean(config, "normalize_encoder_output", False),
        unfolding=unfolding,
    )


def _with_table(lower: DecoderSpec, unfolding: Unfolding | None) -> DecoderSpec:
    """Unfolded rows have positions beyond the longest sequence: where those need a table, a longer one."""
    if unfolding is None or lower.rope.kind != "default":
        return lower
    return replace(lower, rope=replace(lower.rope, plain_length=lower.rope.plain_length * unfolding.parts))


class HoVLE:
    """The model that the engine runs; see `VisionLanguageModel`. `hidden_size`: of the rows that go in."""

    def __init__(self, config: Config, weights: WeightSource) -> None:
        spec = parse_hovle(config)
        width, tables = spec.decoder.hidden_size, (spec.lower.vocab_size, spec.num_special_tokens)
        self.device = weights.device
        self.dtype = weights.dtype
        self.hidden_size = width * (spec.unfolding.parts if spec.unfolding else 1)
        self.vocab_size = spec.decoder.vocab_size
        self.image_size = spec.tile.image_size
        self.tokens_per_tile = spec.tile.num_tokens
        self.rope_extends = not spec.fixed_lengths
        self.max_position_embeddings = min(
            spec.fixed_lengths or [spec.lower.rope.max_position, spec.decoder.rope.max_position]
        )
        self._spec = spec
        self._width = width
        self._pixel_norm = PixelNorm(weights.device)
        self._patches = PatchEmbedding(width, spec.native_size, spec.tile.patch_size, weights, "patches.")
        self._fc1 = take_linear(weights, "projector.fc1", (width,), width * spec.tile.scale**2, bias=True)
        self._fc2 = take_linear(weights, "projector.fc2", (width,), width, bias=True)
        self._embedding = weights.take("embedding.weight", (sum(tables), width), tables)
        self._lower = LayerStack(spec.lower, weights, "lower.")
        self._stack = LayerStack(spec.decoder, weights, "decoder.")
        self._norm = take_rms_norm(weights, "decoder.norm", width, spec.decoder.norm_eps)
        self._head = take_linear(weights, "decoder.head", (self.vocab_size,), width)
        lower_kv = replace(self._lower.kv_spec, unfolding=spec.unfolding)
        self.kv_spec = replace(self._stack.kv_spec, lower=lower_kv)

    def encode_tiles(self, pixels: Tensor) -> Tensor:
        """uint8 [N, S, S, 3] -> [N, tokens_per_tile, hidden_size]."""
        tile = self._spec.tile
        patches = self._patches(self._pixel_norm(pixels)).view(len(pixels), tile.grid, tile.grid, -1)
        parts = pixel_shuffle(patches, tile.scale, transposed=False)
        return parts if self._spec.unfolding else self._project(parts)

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """int64 [T] -> [T, hidden_size], a new tensor."""
        rows = F.embedding(ids, self._embedding)
        return F.pad(rows, (0, self.hidden_size - self._width)) if self._spec.unfolding else rows

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        """[T, hidden_size] -> [T, H] with the final norm applied."""
        if step.lower is None:
            raise ValueError("a step without its lower part")
        x = self._unfolded(hidden, step, step.lower) if self._spec.unfolding else self._lower(hidden, step.lower)
        if self._spec.normalises:
            x = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return self._norm(self._stack(x, step))

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """[R, H] -> float32 [R, V]."""
        return self._head(hidden).float()

    def rope_regime(self, length: int) -> int:
        """0 while a sequence of this length is rotated as a short one is, in both stacks."""
        lower = 0 if self._spec.unfolding else self._spec.lower.rope.regime(length)
        return max(lower, self._spec.decoder.rope.regime(length))

    def _unfolded(self, hidden: Tensor, step: Step, lower: Step) -> Tensor:
        """The lower stack over a row for each part, then the parts of a visual token together again: [T, H]."""
        rows = self._lower(hidden.view(-1, self._width)[lower.rows], lower)
        parts = hidden.new_zeros(len(hidden), self.hidden_size)
        parts.view(-1, self._width)[lower.rows] = rows
        x = parts[:, : self._width].contiguous()
        if step.routes is not None:
            x[step.routes.visual] = self._project(parts[step.routes.visual])
        return x

    def _project(self, parts: Tensor) -> Tensor:
        return self._fc2(self._fc1.gelu(parts))
