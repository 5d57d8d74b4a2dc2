"""A random InternVL checkpoint in transformers' own layout, for the peer. Run with the peer's Python:

    PEER/bin/python benchmarks/peer_checkpoint.py OUT --tiles 1|12

The sizes are those of `benchmarks.make_checkpoint`, so that both servers hold about 88 M parameters.
"""

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import InternVLConfig, InternVLForConditionalGeneration, PreTrainedTokenizerFast

VOCABULARY = Path(__file__).resolve().parent.parent / "tests" / "goldens" / "internvl2_5-qwen2" / "checkpoint"
HIDDEN, LAYERS, VISION_HIDDEN, VISION_LAYERS, SIZE = 768, 10, 384, 8, 224
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}
{%- for part in message.content -%}
{% if part.type == 'image' %}<IMG_CONTEXT>
{% elif part.type == 'text' %}{{ part.text }}{% endif %}
{%- endfor -%}
{% endif %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}
"""


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("out", type=Path)
    args.add_argument("--tiles", type=int, required=True)
    asked = args.parse_args()
    tokens_per_tile = (SIZE // 14) ** 2 // 4
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = InternVLForConditionalGeneration(make_config(tokenizer, tokens_per_tile))
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(asked.out)
    tokenizer.save_pretrained(asked.out)
    pixels = {
        "processor_class": "InternVLProcessor",
        "image_processor_type": "GotOcr2ImageProcessor",
        "crop_to_patches": asked.tiles > 1,
        "min_patches": 1,
        "max_patches": asked.tiles,
        "size": {"height": SIZE, "width": SIZE},
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (asked.out / "preprocessor_config.json").write_text(json.dumps(pixels))
    processor = {"processor_class": "InternVLProcessor", "image_seq_length": tokens_per_tile}
    (asked.out / "processor_config.json").write_text(json.dumps(processor))
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The vocabulary of the Qwen2.5 golden with the names that the library's processor asks for."""
    bpe = Tokenizer(models.BPE.from_file(str(VOCABULARY / "vocab.json"), str(VOCABULARY / "merges.txt")))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
            "im_start": "<|im_start|>",
        },
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_config(tokenizer: PreTrainedTokenizerFast, tokens_per_tile: int) -> InternVLConfig:
    """Sizes as in benchmarks.make_checkpoint."""
    image_token_id = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    assert isinstance(image_token_id, int)
    return InternVLConfig(
        vision_config={
            "hidden_size": VISION_HIDDEN,
            "num_hidden_layers": VISION_LAYERS,
            "num_attention_heads": VISION_HIDDEN // 64,
            "intermediate_size": VISION_HIDDEN * 4,
            "image_size": [SIZE, SIZE],
            "patch_size": [14, 14],
            "attention_bias": True,
        },
        text_config={
            "model_type": "qwen2",
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HIDDEN // 64,
            "num_key_value_heads": HIDDEN // 128,
            "intermediate_size": HIDDEN * 3,
            "vocab_size": 960,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": False,
        },
        image_token_id=image_token_id,
        image_seq_length=tokens_per_tile,
    )


if __name__ == "__main__":
    main()
