"""Published tensor names -> ours, as tables.

An entry is our name, with {} for the layer number, and the published tensors whose rows it stacks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module

import torch
from torch import Tensor

from workers.models.base import ModelError
from workers.models.config import Config, DecoderSpec
from workers.models.internvl import parse_internvl
from workers.models.mono_internvl import parse_mono_internvl
from workers.models.registry import resolve_architecture
from workers.weights.files import CheckpointFiles
from workers.weights.lora import Lora

Names = Mapping[str, tuple[str, ...]]
Reorder = Callable[[Tensor], Tensor]


def scoped(ours: str, published: str, names: Names) -> dict[str, tuple[str, ...]]:
    """The table with prefixes in front of our names and the published ones."""
    return {ours + name: tuple(published + other for other in others) for name, others in names.items()}


_LLAMA: Names = {
    "embedding.weight": ("model.embed_tokens.weight",),
    "norm.weight": ("model.norm.weight",),
    "head.weight": ("lm_head.weight",),
    "layers.{}.input_norm.weight": ("model.layers.{}.input_layernorm.weight",),
    "layers.{}.post_norm.weight": ("model.layers.{}.post_attention_layernorm.weight",),
    "layers.{}.qkv.weight": tuple(f"model.layers.{{}}.self_attn.{x}_proj.weight" for x in "qkv"),
    "layers.{}.qkv.bias": tuple(f"model.layers.{{}}.self_attn.{x}_proj.bias" for x in "qkv"),
    "layers.{}.q_norm.weight": ("model.layers.{}.self_attn.q_norm.weight",),
    "layers.{}.k_norm.weight": ("model.layers.{}.self_attn.k_norm.weight",),
    "layers.{}.out.weight": ("model.layers.{}.self_attn.o_proj.weight",),
    "layers.{}.out.bias": ("model.layers.{}.self_attn.o_proj.bias",),
    "layers.{}.gate_up.weight": ("model.layers.{}.mlp.gate_proj.weight", "model.layers.{}.mlp.up_proj.weight"),
    "layers.{}.down.weight": ("model.layers.{}.mlp.down_proj.weight",),
}
_PHI3: Names = {
    **_LLAMA,
    "layers.{}.qkv.weight": ("model.layers.{}.self_attn.qkv_proj.weight",),
    "layers.{}.gate_up.weight": ("model.layers.{}.mlp.gate_up_proj.weight",),
}
INTERNLM2_LAYER: Names = {
    "input_norm.weight": ("attention_norm.weight",),
    "post_norm.weight": ("ffn_norm.weight",),
    "qkv.weight": ("attention.wqkv.weight",),
    "qkv.bias": ("attention.wqkv.bias",),
    "out.weight": ("attention.wo.weight",),
    "out.bias": ("attention.wo.bias",),
    "gate_up.weight": ("feed_forward.w1.weight", "feed_forward.w3.weight"),
    "down.weight": ("feed_forward.w2.weight",),
}
_INTERNLM2: Names = {
    "embedding.weight": ("model.tok_embeddings.weight",),
    "norm.weight": ("model.norm.weight",),
    "head.weight": ("output.weight",),
    **scoped("layers.{}.", "model.layers.{}.", INTERNLM2_LAYER),
}
_INTERNLM2_VE: Names = {
    **_INTERNLM2,
    "layers.{}.visual_gate_up.weight": tuple(f"model.layers.{{}}.feed_forward_ve.w{n}.weight" for n in (1, 3)),
    "layers.{}.visual_down.weight": ("model.layers.{}.feed_forward_ve.w2.weight",),
}
PATCHES: Names = {
    "positions": ("position_embedding",),
    "patch.weight": ("patch_embedding.weight",),
    "patch.bias": ("patch_embedding.bias",),
}
INTERNVIT: Names = {
    "class_token": ("embeddings.class_embedding",),
    **scoped("", "embeddings.", PATCHES),
    **{
        f"layers.{{}}.{ours}.{kind}": (f"encoder.layers.{{}}.{published}.{kind}",)
        for ours, published in {
            "norm1": "norm1",
            "qkv": "attn.qkv",
            "q_norm": "attn.q_norm",
            "k_norm": "attn.k_norm",
            "out": "attn.proj",
            "norm2": "norm2",
            "fc1": "mlp.fc1",
            "fc2": "mlp.fc2",
        }.items()
        for kind in ("weight", "bias")
    },
    "layers.{}.scale1": ("encoder.layers.{}.ls1",),
    "layers.{}.scale2": ("encoder.layers.{}.ls2",),
}
PROJECTOR: Names = {
    f"{ours}.{kind}": (f"{number}.{kind}",)
    for number, ours in ((0, "norm"), (1, "fc1"), (3, "fc2"))
    for kind in ("weight", "bias")
}
DECODERS: Mapping[str, Names] = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": _LLAMA,
    "Qwen3ForCausalLM": _LLAMA,
    "Phi3ForCausalLM": _PHI3,
    "InternLM2ForCausalLM": _INTERNLM2,
    "InternLM2VEForCausalLM": _INTERNLM2_VE,
}


@dataclass(frozen=True, slots=True)
class Rules:
    """How one checkpoint names its tensors."""

    names: Names
    reorder: Mapping[str, Reorder] = field(default_factory=dict)
    """Our name template -> what brings a stored tensor's rows into our order."""
    ignored: tuple[str, ...] = ()
    """Prefixes of published tensors that this model does not use."""
    ignored_suffixes: tuple[str, ...] = (".rotary_emb.inv_freq",)
    """Buffers that older tools wrote beside the weights."""
    lora: Lora | None = None
    """Adapters that are to be merged into the weights."""
    check: "Callable[[Config, Rules, CheckpointFiles], None] | None" = None
    """Looks at the names and shapes in the files before anything is read. Raises ModelError."""


def rules_for(config: Config) -> Rules:
    """The tables of a config's architecture."""
    architecture = resolve_architecture(config)
    if architecture in _FAMILIES:
        return _FAMILIES[architecture](config)
    module, function = _OWN_MODULES[architecture]
    rules: Rules = getattr(import_module(module), function)(config)
    return rules


def split_interleaved_qkv(tensor: Tensor, num_kv_heads: int, head_dim: int) -> Tensor:
    """InternLM2's wqkv -> [q | k | v].

    Rows come in num_kv_heads groups, each [its query heads | one key head | one value head], head_dim rows a head.
    """
    if tensor.shape[0] % (num_kv_heads * head_dim):
        raise ModelError(f"wqkv has {tensor.shape[0]} rows, not whole groups of {num_kv_heads} x {head_dim}")
    groups = tensor.view(num_kv_heads, -1, head_dim, *tensor.shape[1:])
    q, k, v = groups[:, :-2], groups[:, -2], groups[:, -1]
    return torch.cat([part.reshape(-1, *tensor.shape[1:]) for part in (q, k, v)])


def decoder_reorder(spec: DecoderSpec, prefix: str) -> dict[str, Reorder]:
    """What InternLM2's fused q|k|v rows need; `prefix` stands before our names."""
    if not spec.architecture.startswith("InternLM2"):
        return {}
    split = partial(split_interleaved_qkv, num_kv_heads=spec.num_kv_heads, head_dim=spec.head_dim)
    return {f"{prefix}layers.{{}}.qkv.{kind}": split for kind in ("weight", "bias")}


def _internvl(config: Config) -> Rules:
    spec = parse_internvl(config)
    stored_layers = config["vision_config"].get("num_hidden_layers", spec.vision.num_layers)
    return Rules(
        names={
            **scoped("vision.", "vision_model.", INTERNVIT),
            **scoped("projector.", "mlp1.", PROJECTOR),
            **scoped("decoder.", "language_model.", DECODERS[spec.decoder.architecture]),
        },
        reorder=decoder_reorder(spec.decoder, "decoder."),
        ignored=tuple(
            f"vision_model.encoder.layers.{index}." for index in range(spec.vision.num_layers, stored_layers)
        ),
    )


def _mono_internvl(config: Config) -> Rules:
    spec = parse_mono_internvl(config)
    return Rules(
        names={
            **scoped("patches.", "vision_model.embeddings.", PATCHES),
            **scoped("projector.", "mlp1.", PROJECTOR),
            **scoped("decoder.", "language_model.", DECODERS[spec.decoder.architecture]),
        },
        reorder=decoder_reorder(spec.decoder, "decoder."),
        ignored=("vision_model.embeddings.class_embedding",),
    )


_FAMILIES: Mapping[str, Callable[[Config], Rules]] = {
    "InternVLChatModel": _internvl,
    "MonoInternVL": _mono_internvl,
}
_OWN_MODULES = {
    "HoVLE": ("workers.weights.hovle", "hovle_rules"),
    "PVCInternVLModel": ("workers.weights.pvc", "pvc_rules"),
    "InternVideo2_VideoChat2": ("workers.weights.internvideo2", "internvideo2_rules"),
}
