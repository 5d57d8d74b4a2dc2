"""config.json of a checkpoint -> checked specs. Plain JSON: nothing in a checkpoint is ever executed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.models.base import ModelError
from workers.models.rope import RopeKind, RopeSpec

Config = Mapping[str, Any]

_MAX_CONFIG_BYTES = 16 << 20

_DECODER_DEFAULTS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6},
    "InternLM2ForCausalLM": {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "bias": True},
    "InternLM2VEForCausalLM": {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "bias": True},
    "MistralForCausalLM": {"max_position_embeddings": 131072, "rms_norm_eps": 1e-6},
    "Qwen2ForCausalLM": {"max_position_embeddings": 32768, "rms_norm_eps": 1e-6},
    "Qwen3ForCausalLM": {"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "head_dim": 128},
    "Phi3ForCausalLM": {
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "original_max_position_embeddings": 4096,
    },
}
_ROPE_KINDS: dict[str, RopeKind] = {
    "default": "default",
    "dynamic": "dynamic",
    "longrope": "longrope",
    "su": "longrope",
}


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """What tells one decoder-only text backbone from another."""

    architecture: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    norm_eps: float
    qkv_bias: bool
    out_bias: bool
    qk_norm: bool
    rope: RopeSpec
    sliding_window: int | None
    has_visual_experts: bool = False
    """Whether each layer has a second MLP, for visual tokens."""


@dataclass(frozen=True, slots=True)
class TileSpec:
    """A square picture tile, its patches, and how many of them along a side make one token."""

    image_size: int
    patch_size: int
    scale: int

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size

    @property
    def token_grid(self) -> int:
        """Tokens along a side."""
        return self.grid // self.scale

    @property
    def num_tokens(self) -> int:
        return self.token_grid**2


@dataclass(frozen=True, slots=True)
class VisionSpec:
    """An InternViT tower of any published size; the position table is stored for `image_size`."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    image_size: int
    patch_size: int
    is_rms: bool
    norm_eps: float
    qkv_bias: bool
    qk_norm: bool


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """The JSON object in `folder`/`name`. Raises ModelError when it is missing, too large or not an object."""
    path = folder / name
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ModelError(f"{path}: larger than {_MAX_CONFIG_BYTES >> 20} MiB")
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or 'no such file'})") from error
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return config


def section(config: Config, key: str) -> dict[str, Any]:
    """The nested object `key`."""
    value = config.get(key)
    if not isinstance(value, dict):
        raise ModelError(f"config.json: {key} must be an object")
    return value


def positive_int(config: Config, key: str, default: int | None = None) -> int:
    """A size. A missing or null key takes the default; without one it is an error."""
    value = default if config.get(key) is None else config[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelError(f"config.json: {key} must be a positive whole number, not {value!r}")
    return value


def positive_float(config: Config, key: str, default: float | None = None) -> float:
    """A scale above zero; as `positive_int`."""
    value = default if config.get(key) is None else config[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ModelError(f"config.json: {key} must be a positive number, not {value!r}")
    return float(value)


def boolean(config: Config, key: str, default: bool) -> bool:
    """A flag; a missing or null key takes the default."""
    value = default if config.get(key) is None else config[key]
    if not isinstance(value, bool):
        raise ModelError(f"config.json: {key} must be true or false, not {value!r}")
    return value


def choice(config: Config, key: str, default: str, allowed: tuple[str, ...]) -> str:
    """One of a few words."""
    value = default if config.get(key) is None else config[key]
    if value not in allowed:
        raise ModelError(f"config.json: {key} must be one of {', '.join(allowed)}, not {value!r}")
    return str(value)


def architecture_of(config: Config) -> str:
    """`architectures[0]`, or an empty string."""
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def parse_decoder(raw: Config) -> DecoderSpec:
    """A text backbone's config -> spec. Raises ModelError for an unknown architecture or sizes that cannot be."""
    architecture = architecture_of(raw)
    if architecture not in _DECODER_DEFAULTS:
        known = ", ".join(sorted(_DECODER_DEFAULTS))
        raise ModelError(
            f"config.json: text backbone {architecture or 'without architectures'!r} is not one of {known}"
        )
    config = _DECODER_DEFAULTS[architecture] | {key: value for key, value in raw.items() if value is not None}
    choice(config, "hidden_act", "silu", ("silu",))
    if positive_float(config, "partial_rotary_factor", 1.0) != 1.0:
        raise ModelError("config.json: partial_rotary_factor below 1 is not supported")
    hidden_size = positive_int(config, "hidden_size")
    num_heads = positive_int(config, "num_attention_heads")
    num_kv_heads = positive_int(config, "num_key_value_heads", num_heads)
    head_dim = positive_int(config, "head_dim", hidden_size // num_heads)
    if num_heads % num_kv_heads:
        raise ModelError(f"config.json: {num_heads} attention heads do not divide into {num_kv_heads} key/value heads")
    if head_dim % 2:
        raise ModelError(f"config.json: head_dim {head_dim} is odd; rotary embedding needs pairs")
    rope = parse_rope(config, head_dim)
    all_bias = boolean(config, "bias" if architecture.startswith("InternLM2") else "attention_bias", False)
    return DecoderSpec(
        architecture=architecture,
        hidden_size=hidden_size,
        intermediate_size=positive_int(config, "intermediate_size"),
        num_layers=positive_int(config, "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        vocab_size=positive_int(config, "vocab_size"),
        norm_eps=positive_float(config, "rms_norm_eps"),
        qkv_bias=architecture == "Qwen2ForCausalLM" or all_bias,
        out_bias=all_bias,
        qk_norm=architecture == "Qwen3ForCausalLM",
        rope=rope,
        sliding_window=_sliding_window(raw, architecture, rope.max_position),
        has_visual_experts=architecture == "InternLM2VEForCausalLM",
    )


def parse_rope(config: Config, head_dim: int) -> RopeSpec:
    """`rope_scaling` (or the newer `rope_parameters`) and what stands beside it."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise ModelError("config.json: rope_scaling must be an object or null")
    name = scaling.get("rope_type") or scaling.get("type") or "default"
    if name not in _ROPE_KINDS:
        raise ModelError(f"config.json: rope_scaling type {name!r} is not one of {', '.join(_ROPE_KINDS)}")
    kind = _ROPE_KINDS[name]
    theta = positive_float(config, "rope_theta", positive_float(scaling, "rope_theta", 10000.0))
    max_position = positive_int(config, "max_position_embeddings")
    if kind != "longrope":
        factor = positive_float(scaling, "factor", 1.0)
        return RopeSpec(kind, theta, max_position, plain_length=max_position, factor=factor)
    original = positive_int(config, "original_max_position_embeddings", max_position)
    return RopeSpec(
        kind,
        theta,
        max_position,
        plain_length=positive_int(scaling, "original_max_position_embeddings", original),
        short_factors=_factors(scaling, "short_factor", head_dim // 2),
        long_factors=_factors(scaling, "long_factor", head_dim // 2),
    )


def parse_vision(config: Config) -> VisionSpec:
    """An InternViT config -> spec; missing keys take the defaults of the published configuration class."""
    choice(config, "hidden_act", "gelu", ("gelu",))
    norm_type = choice(config, "norm_type", "rms_norm", ("rms_norm", "layer_norm"))
    spec = VisionSpec(
        hidden_size=positive_int(config, "hidden_size", 3200),
        intermediate_size=positive_int(config, "intermediate_size", 12800),
        num_layers=positive_int(config, "num_hidden_layers", 48),
        num_heads=positive_int(config, "num_attention_heads", 25),
        image_size=positive_int(config, "image_size", 224),
        patch_size=positive_int(config, "patch_size", 14),
        is_rms=norm_type == "rms_norm",
        norm_eps=positive_float(config, "layer_norm_eps", 1e-6),
        qkv_bias=boolean(config, "qkv_bias", False),
        qk_norm=boolean(config, "qk_normalization", True),
    )
    if spec.hidden_size % spec.num_heads:
        raise ModelError(f"config.json: vision width {spec.hidden_size} does not divide into {spec.num_heads} heads")
    if spec.image_size % spec.patch_size:
        raise ModelError(f"config.json: image size {spec.image_size} is not a multiple of the patch {spec.patch_size}")
    return spec


def parse_tile(config: Config, native_size: int, patch_size: int) -> TileSpec:
    """`force_image_size` (default: the native size) and `downsample_ratio`; a tile divides into whole tokens."""
    ratio = 1 / positive_float(config, "downsample_ratio", 0.5)
    tile = TileSpec(positive_int(config, "force_image_size", native_size), patch_size, round(ratio))
    if tile.image_size % patch_size:
        raise ModelError(f"config.json: image size {tile.image_size} is not a multiple of the patch {patch_size}")
    if ratio < 1 or abs(ratio - tile.scale) > 1e-6 or tile.grid % tile.scale:
        raise ModelError(
            f"config.json: downsample_ratio must divide {tile.grid} x {tile.grid} patches into whole tokens"
        )
    return tile


def _factors(scaling: Config, key: str, count: int) -> tuple[float, ...]:
    values = scaling.get(key)
    if not isinstance(values, list) or len(values) != count:
        raise ModelError(f"config.json: rope_scaling.{key} must be a list of {count} numbers")
    return tuple(positive_float({key: value}, key) for value in values)


def _sliding_window(raw: Config, architecture: str, max_position: int) -> int | None:
    """The window where it takes effect. Mistral's is on by default, Qwen's only with `use_sliding_window`."""
    if architecture.startswith(("Llama", "InternLM2")):
        return None
    if architecture.startswith("Qwen") and not boolean(raw, "use_sliding_window", False):
        return None
    window = raw.get("sliding_window", 4096 if architecture == "MistralForCausalLM" else None)
    if window is None:
        return None
    window = positive_int({"sliding_window": window}, "sliding_window")
    return window if window < max_position else None
