"""Tiny random checkpoints in transformers' own layout, with a tokenizer of the goldens' vocabulary."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

_VOCABULARY = Path(__file__).parents[1] / "goldens" / "internvl2_5-qwen2" / "checkpoint"
_NAMED = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
    "im_start": "<|im_start|>",
}
_QWEN_NAMED = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
    "im_start": "<|im_start|>",
}
_LLAVA_NAMED = {"image_token": "<image>", "video_token": "<video>", "im_start": "<|im_start|>"}
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% elif c['type'] == 'video' %}VIDEO"
    "{% else %}{{ c['text'] | trim }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PIXELS = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "do_convert_rgb": True}
_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "tie_word_embeddings": False,
}
SIDE = 28
"""Pixels along a tile's side."""


def make_internvl(folder: Path) -> Path:
    """InternVL's `-hf` layout, up to 4 tiles a picture, with the dynamic rope of InternVL3 over 96 positions."""
    tokenizer = _tokenizer(_NAMED, "<IMG_CONTEXT>\n", "<video>\n")
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config = InternVLConfig(
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "image_size": [SIDE, SIDE],
            "patch_size": [7, 7],
            "attention_bias": True,
        },
        text_config=_text(tokenizer, model_type="qwen2", max_position_embeddings=96, rope_parameters=rope),
        image_token_id=_token_id(tokenizer, "<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    pixels = {
        "image_processor_type": "GotOcr2ImageProcessor",
        "crop_to_patches": True,
        "max_patches": 4,
        "size": {"height": SIDE, "width": SIDE},
    }
    _save(folder, InternVLForConditionalGeneration, config, tokenizer, pixels, {"image_seq_length": 4})
    return folder


def make_llava_onevision(folder: Path) -> Path:
    """LLaVA-OneVision: anyres for one picture, one square each for several."""
    tokenizer = _tokenizer(_LLAVA_NAMED, "<image>", "<video>\n")
    pinpoints = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    config = LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "image_size": SIDE,
            "patch_size": 7,
            "vision_use_head": False,
        },
        text_config=_text(tokenizer, model_type="qwen2", max_position_embeddings=512),
        image_token_index=_token_id(tokenizer, "<image>"),
        video_token_index=_token_id(tokenizer, "<video>"),
        image_grid_pinpoints=pinpoints,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    pixels = {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "size": {"height": SIDE, "width": SIDE},
        "image_grid_pinpoints": pinpoints,
    }
    processor = {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
    _save(folder, LlavaOnevisionForConditionalGeneration, config, tokenizer, pixels, processor)
    return folder


def make_qwen2_vl(folder: Path) -> Path:
    """Qwen2-VL: any grid of patches, M-RoPE."""
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
    return _make_qwen(folder, Qwen2VLConfig, Qwen2VLForConditionalGeneration, vision)


def make_qwen2_5_vl(folder: Path) -> Path:
    """Qwen2.5-VL: windows in its tower, M-RoPE."""
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 48,
        "out_hidden_size": 32,
        "window_size": 28,
        "fullatt_block_indexes": [1],
    }
    return _make_qwen(folder, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, vision)


def _make_qwen(folder: Path, config_class: type, model_class: type, vision: Mapping[str, object]) -> Path:
    around = "<|vision_start|>{}<|vision_end|>"
    tokenizer = _tokenizer(_QWEN_NAMED, around.format("<|image_pad|>"), around.format("<|video_pad|>"))
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    config = config_class(
        vision_config={**vision, "patch_size": 7, "spatial_merge_size": 2, "temporal_patch_size": 2},
        text_config=_text(tokenizer, max_position_embeddings=512, rope_parameters=rope),
        image_token_id=_token_id(tokenizer, "<|image_pad|>"),
        video_token_id=_token_id(tokenizer, "<|video_pad|>"),
        vision_start_token_id=_token_id(tokenizer, "<|vision_start|>"),
        vision_end_token_id=_token_id(tokenizer, "<|vision_end|>"),
    )
    pixels = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": 7,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": 28 * 28, "longest_edge": 70 * 70},
    }
    _save(folder, model_class, config, tokenizer, pixels, {})
    return folder


def _tokenizer(named: dict[str, str], image: str, video: str) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE.from_file(str(_VOCABULARY / "vocab.json"), str(_VOCABULARY / "merges.txt")))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=named
    )
    tokenizer.chat_template = _TEMPLATE.replace("IMAGE", image).replace("VIDEO", video)
    return tokenizer


def _token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    token_id = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(token_id, int)
    return token_id


def _text(tokenizer: PreTrainedTokenizerFast, **more: object) -> dict[str, object]:
    return {**_TEXT, "vocab_size": len(tokenizer), **more}


def _save(
    folder: Path,
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerFast,
    pixels: Mapping[str, object],
    processor: Mapping[str, object],
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config)
    # A random model's default scale makes all logits nearly equal; then nothing would tell one token from another.
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({**PIXELS, **pixels}))
    (folder / "processor_config.json").write_text(json.dumps(processor))
