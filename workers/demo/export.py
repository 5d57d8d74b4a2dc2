"""Write the trained weights as a released-layout InternVL2 checkpoint, and read one back for evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .model import Demo
from .samples import SYSTEM
from .shape import Dimensions
from .vocabulary import load_tokenizer, token_id

CHECKPOINT = Path(__file__).parent / "checkpoint"


def _llm_config(dims: Dimensions, vocabulary: int, ids: dict[str, int]) -> dict[str, object]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "hidden_act": "silu",
        "hidden_size": dims.text_width,
        "intermediate_size": dims.text_hidden,
        "max_position_embeddings": 4096,
        "max_window_layers": dims.text_layers,
        "model_type": "qwen2",
        "num_attention_heads": dims.text_heads,
        "num_hidden_layers": dims.text_layers,
        "num_key_value_heads": dims.text_kv_heads,
        "pad_token_id": ids["<|endoftext|>"],
        "rms_norm_eps": dims.rms_eps,
        "rope_theta": dims.rope_theta,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": vocabulary,
    }


def _vision_config(dims: Dimensions) -> dict[str, object]:
    return {
        "architectures": ["InternVisionModel"],
        "attention_dropout": 0.0,
        "drop_path_rate": 0.0,
        "dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_size": dims.vision_width,
        "image_size": dims.image,
        "initializer_factor": 1.0,
        "intermediate_size": dims.vision_hidden,
        "layer_norm_eps": 1e-6,
        "model_type": "intern_vit_6b",
        "norm_type": "layer_norm",
        "num_attention_heads": dims.vision_heads,
        "num_channels": 3,
        "num_hidden_layers": dims.vision_layers,
        "patch_size": dims.patch,
        "qk_normalization": False,
        "qkv_bias": True,
        "torch_dtype": "bfloat16",
        "use_flash_attn": False,
    }


def _config(dims: Dimensions, vocabulary: int, ids: dict[str, int]) -> dict[str, object]:
    return {
        "architectures": ["InternVLChatModel"],
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": dims.image,
        "hidden_size": dims.text_width,
        "llm_config": _llm_config(dims, vocabulary, ids),
        "max_dynamic_patch": 1,
        "min_dynamic_patch": 1,
        "model_type": "internvl_chat",
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "system_message": SYSTEM,
        "template": "internvl2_5",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": False,
        "vision_config": _vision_config(dims),
    }


def export(weights: dict[str, Tensor], dims: Dimensions, folder: Path) -> None:
    """``folder`` already holds the tokenizer; the training-only heads stay behind."""
    ids = json.loads((folder / "added_tokens.json").read_text("utf-8"))
    tensors = {k: v.to(torch.bfloat16).contiguous() for k, v in weights.items() if not k.startswith("heads.")}
    vocabulary = tensors["language_model.lm_head.weight"].shape[0]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    ends = [ids["<|im_end|>"], ids["<|im_start|>"]]
    generation = {"do_sample": False, "eos_token_id": ends, "max_new_tokens": 128, "temperature": 0.0}
    for name, content in (("config.json", _config(dims, vocabulary, ids)), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def load(folder: Path = CHECKPOINT) -> tuple[Demo, Dimensions]:
    """The checkpoint in the training modules (its dense heads untrained)."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    vision, text = config["vision_config"], config["llm_config"]
    dims = Dimensions(
        image=config["force_image_size"], patch=vision["patch_size"], vision_width=vision["hidden_size"],
        vision_layers=vision["num_hidden_layers"], vision_heads=vision["num_attention_heads"],
        vision_hidden=vision["intermediate_size"], text_width=text["hidden_size"],
        text_layers=text["num_hidden_layers"],
        text_heads=text["num_attention_heads"], text_kv_heads=text["num_key_value_heads"],
        text_hidden=text["intermediate_size"], rope_theta=text["rope_theta"], rms_eps=text["rms_norm_eps"],
    )  # fmt: skip
    model = Demo(dims, text["vocab_size"], token_id(load_tokenizer(folder), "<IMG_CONTEXT>"))
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    return model.float().eval(), dims
