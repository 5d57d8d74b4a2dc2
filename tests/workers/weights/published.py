"""config.json of published checkpoints, cut down to what decides sizes."""

from typing import Any

_VIT_300M = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 448,
    "patch_size": 14,
    "norm_type": "layer_norm",
    "qkv_bias": True,
    "qk_normalization": False,
}
_VIT_6B = {"num_hidden_layers": 45, "image_size": 448}
_INTERNLM2 = {"architectures": ["InternLM2ForCausalLM"], "bias": False, "max_position_embeddings": 32768} | {
    "vocab_size": 92553,
    "rope_theta": 1000000,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
}


def _config(vision: dict[str, Any], llm: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["InternVLChatModel"],
        "vision_config": vision,
        "llm_config": llm,
        "force_image_size": 448,
        "ps_version": "v2",
        "torch_dtype": "bfloat16",
    }


def _sizes(hidden: int, layers: int, heads: int, kv_heads: int, ffn: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
    }


def _qwen2(vocab: int, *sizes: int) -> dict[str, Any]:
    return {"architectures": ["Qwen2ForCausalLM"], "vocab_size": vocab} | _sizes(*sizes)


PUBLISHED = {
    "InternVL2-1B": _config(_VIT_300M, _qwen2(151655, 896, 24, 14, 2, 4864)),
    "InternVL2-2B": _config(_VIT_300M, _INTERNLM2 | _sizes(2048, 24, 16, 8, 8192)),
    "InternVL2-8B": _config(_VIT_300M, _INTERNLM2 | _sizes(4096, 32, 32, 8, 14336)),
    "InternVL2-26B": _config(_VIT_6B, _INTERNLM2 | _sizes(6144, 48, 48, 8, 16384)),
    "InternVL2-40B": _config(
        _VIT_6B, {"architectures": ["LlamaForCausalLM"], "vocab_size": 64007} | _sizes(7168, 60, 56, 8, 20480)
    ),
    "InternVL2_5-1B": _config(_VIT_300M, _qwen2(151674, 896, 24, 14, 2, 4864)),
    "InternVL2_5-4B": _config(_VIT_300M, _qwen2(151674, 2048, 36, 16, 2, 11008)),
    "InternVL2_5-78B": _config(_VIT_6B, _qwen2(151674, 8192, 80, 64, 8, 29568)),
}
