"""A checkpoint folder without weights, for `--load-format dummy`: InternVL layout, sizes as asked.

    python -m benchmarks.make_checkpoint OUT [--hidden 768 --layers 10 --vision-hidden 384 --vision-layers 8 --size 224]

The defaults make about 88 M parameters, the size of the peer's checkpoint in `benchmarks/peer.md`.
"""

import argparse
import json
import shutil
from pathlib import Path

TOKENIZER = Path(__file__).resolve().parent.parent / "tests" / "goldens" / "internvl2_5-qwen2" / "checkpoint"
TOKENIZER_FILES = ("vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("out", type=Path)
    args.add_argument("--hidden", type=int, default=768)
    args.add_argument("--layers", type=int, default=10)
    args.add_argument("--vision-hidden", type=int, default=384)
    args.add_argument("--vision-layers", type=int, default=8)
    args.add_argument("--size", type=int, default=224)
    args.add_argument("--tiles", type=int, default=12, help="most tiles of a picture")
    asked = args.parse_args()
    write_checkpoint(
        asked.out, asked.hidden, asked.layers, asked.vision_hidden, asked.vision_layers, asked.size, asked.tiles
    )


def write_checkpoint(
    out: Path, hidden: int, layers: int, vision_hidden: int, vision_layers: int, size: int, tiles: int
) -> None:
    """Write config.json, generation_config.json (greedy) and the tokenizer of the Qwen2.5 golden to `out`."""
    config = {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": size,
        "max_dynamic_patch": tiles,
        "min_dynamic_patch": 1,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "system_message": "You are a benchmark.",
        "use_thumbnail": True,
        "llm_config": {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_size": hidden,
            "intermediate_size": hidden * 3,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 64,
            "num_key_value_heads": max(1, hidden // 128),
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "vocab_size": 960,
        },
        "vision_config": {
            "hidden_size": vision_hidden,
            "intermediate_size": vision_hidden * 4,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": vision_hidden // 64,
            "image_size": size,
            "patch_size": 14,
            "norm_type": "layer_norm",
            "layer_norm_eps": 1e-6,
            "qkv_bias": True,
            "qk_normalization": False,
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=1))
    (out / "generation_config.json").write_text(json.dumps({"do_sample": False}))
    for name in TOKENIZER_FILES:
        shutil.copy(TOKENIZER / name, out / name)


if __name__ == "__main__":
    main()
