"""InternVideo2-Chat's config.json and its companions -> checked spec.

The published config.json names its language model and its BERT by hub name and says nothing of their sizes: they are
read from a folder of that name inside the checkpoint where there is one, and known for the published names otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.models.base import ModelError
from workers.models.config import (
    Config,
    DecoderSpec,
    VisionSpec,
    boolean,
    choice,
    parse_decoder,
    positive_float,
    positive_int,
    read_config,
    section,
)

BERT_FOLDER = "bert-base-uncased"
_DECODER_KEY, _BERT_KEY = "llm_config", "bert_config"
_KNOWN_DECODERS: Mapping[str, Config] = {
    "mistralai/Mistral-7B-Instruct-v0.3": {
        "architectures": ["MistralForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "vocab_size": 32768,
    },
}
# BERT-base's vocabulary and the [DEC] that the authors' Q-Former adds.
_BERT_WORDS = 30522 + 1
_MLP_RATIO = 48 / 11


@dataclass(frozen=True, slots=True)
class QFormerSpec:
    """A BERT whose even layers also attend to visual features of width `encoder_width`."""

    num_queries: int
    num_extra_queries: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_words: int
    num_positions: int
    norm_eps: float
    encoder_width: int

    @property
    def num_tokens(self) -> int:
        """Tokens that come out for one view."""
        return self.num_queries + self.num_extra_queries


@dataclass(frozen=True, slots=True)
class InternVideo2Spec:
    """One checkpoint. `num_frames`: what the table of positions is stored for. lora_scale: None without adapters."""

    vision: VisionSpec
    num_frames: int
    qformer: QFormerSpec
    decoder: DecoderSpec
    lora_scale: float | None


def with_companions(folder: Path, config: Config) -> Config:
    """The config with those of the checkpoint's own language model and BERT folders added. Raises ModelError."""
    companions = {_DECODER_KEY: folder / _decoder_name(config), _BERT_KEY: folder / BERT_FOLDER}
    found = {key: read_config(path) for key, path in companions.items() if (path / "config.json").is_file()}
    return {**config, **found}


def parse_internvideo2(config: Config) -> InternVideo2Spec:
    """The spec of a config, with or without its companions. Raises ModelError."""
    parts = section(config, "model_config")
    llm = section(parts, "llm")
    choice(llm, "name", "mistral_7b", ("mistral_7b",))
    vision, num_frames = _parse_vision(section(parts, "vision_encoder"))
    uses_lora = boolean(llm, "use_lora", False)
    return InternVideo2Spec(
        vision=vision,
        num_frames=num_frames,
        qformer=_parse_qformer(section(parts, "bridge"), config.get(_BERT_KEY) or {}, vision.hidden_size),
        decoder=parse_decoder(_decoder_config(config)),
        lora_scale=positive_float(llm, "lora_alpha", 32) / positive_int(llm, "lora_r", 16) if uses_lora else None,
    )


def _decoder_name(config: Config) -> str:
    """`pretrained_llm_path`: a hub name, never a path that could lead out of the checkpoint."""
    name = section(section(config, "model_config"), "llm").get("pretrained_llm_path")
    if not isinstance(name, str) or not all(part.strip(".") and "\\" not in part for part in name.split("/")):
        raise ModelError(f"config.json: pretrained_llm_path must be a hub name of the form OWNER/NAME, not {name!r}")
    return name


def _decoder_config(config: Config) -> Config:
    name = _decoder_name(config)
    found = config.get(_DECODER_KEY) or _KNOWN_DECODERS.get(name)
    if found is None:
        raise ModelError(f"config.json: the language model {name} is not known, and {name}/config.json is not there")
    return found


def _parse_vision(config: Config) -> tuple[VisionSpec, int]:
    """The video tower with as many blocks as run: `x_vis_return_idx` counts back from the last one."""
    width = positive_int(config, "encoder_embed_dim", 1408)
    depth, last = positive_int(config, "depth", 40), config.get("x_vis_return_idx", -2)
    if not isinstance(last, int) or not -depth <= last < 0:
        raise ModelError(f"config.json: x_vis_return_idx {last!r} is not one of {depth} blocks counted from the end")
    if positive_int(config, "tubelet_size", 1) != 1:
        raise ModelError("config.json: a tubelet_size other than 1 is not supported")
    if not boolean(config, "sep_image_video_pos_embed", True) or not boolean(config, "vit_add_ln", True):
        raise ModelError("config.json: sep_image_video_pos_embed and vit_add_ln must be true")
    spec = VisionSpec(
        hidden_size=width,
        intermediate_size=int(width * _MLP_RATIO),
        num_layers=depth + last + 1,
        num_heads=positive_int(config, "num_heads", 16),
        image_size=positive_int(config, "img_size", 224),
        patch_size=positive_int(config, "patch_size", 14),
        is_rms=True,
        norm_eps=1e-6,
        qkv_bias=False,
        qk_norm=True,
    )
    if width % spec.num_heads or spec.image_size % spec.patch_size:
        raise ModelError("config.json: vision_encoder does not divide into whole heads and patches")
    return spec, positive_int(config, "num_frames", 8)


def _parse_qformer(bridge: dict[str, Any], bert: Config, encoder_width: int) -> QFormerSpec:
    choice(bridge, "name", "qformer", ("qformer",))
    choice(bert, "hidden_act", "gelu", ("gelu",))
    spec = QFormerSpec(
        num_queries=positive_int(bridge, "num_query_token", 32),
        num_extra_queries=positive_int(bridge, "extra_num_query_token", 64),
        hidden_size=positive_int(bert, "hidden_size", 768),
        intermediate_size=positive_int(bert, "intermediate_size", 3072),
        num_layers=positive_int(bert, "num_hidden_layers", 12),
        num_heads=positive_int(bert, "num_attention_heads", 12),
        num_words=positive_int(bert, "vocab_size", _BERT_WORDS),
        num_positions=positive_int(bert, "max_position_embeddings", 512),
        norm_eps=positive_float(bert, "layer_norm_eps", 1e-12),
        encoder_width=encoder_width,
    )
    if spec.hidden_size % spec.num_heads:
        raise ModelError(f"{BERT_FOLDER}: width {spec.hidden_size} does not divide into {spec.num_heads} heads")
    return spec
