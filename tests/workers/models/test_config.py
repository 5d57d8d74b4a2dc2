import json

import pytest

from workers.models.base import ModelError
from workers.models.config import parse_decoder, parse_vision, read_config
from workers.models.internvl import parse_internvl
from workers.models.registry import resolve_architecture
from workers.models.rope import RopeSpec

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 99,
}
VISION = {"hidden_size": 30, "num_attention_heads": 5, "num_hidden_layers": 6, "image_size": 56}
CHAT = {"architectures": ["InternVLChatModel"], "vision_config": VISION, "llm_config": LLAMA}


def test_missing_decoder_keys_take_the_published_defaults():
    spec = parse_decoder(LLAMA)
    assert (spec.num_kv_heads, spec.head_dim, spec.norm_eps) == (4, 8, 1e-6)
    assert spec.rope == RopeSpec("default", 10000.0, 2048, 2048)
    assert not spec.qkv_bias and not spec.qk_norm


def test_missing_vision_keys_take_those_of_the_6b_tower():
    spec = parse_vision({})
    assert (spec.hidden_size, spec.num_layers, spec.num_heads, spec.intermediate_size) == (3200, 48, 25, 12800)
    assert (spec.image_size, spec.is_rms, spec.qk_norm, spec.qkv_bias) == (224, True, True, False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", None),
        ("hidden_size", 0),
        ("num_hidden_layers", -3),
        ("vocab_size", "many"),
        ("intermediate_size", 1.5),
        ("num_attention_heads", True),
        ("rms_norm_eps", float("nan")),
        ("rope_theta", float("inf")),
        ("hidden_act", "relu"),
        ("attention_bias", 1),
        ("partial_rotary_factor", 0.5),
        ("num_key_value_heads", 3),
        ("head_dim", 7),
    ],
)
def test_a_decoder_value_that_cannot_be_is_named(key, value):
    word = {"num_key_value_heads": "key/value heads"}.get(key, key)
    with pytest.raises(ModelError, match=word):
        parse_decoder(LLAMA | {key: value})


def test_qwen2_has_a_bias_on_qkv_only_and_qwen3_norms_its_heads():
    qwen2 = parse_decoder(LLAMA | {"architectures": ["Qwen2ForCausalLM"]})
    assert (qwen2.qkv_bias, qwen2.out_bias, qwen2.qk_norm) == (True, False, False)
    qwen3 = parse_decoder(LLAMA | {"architectures": ["Qwen3ForCausalLM"]})
    assert (qwen3.qkv_bias, qwen3.qk_norm, qwen3.head_dim) == (False, True, 128)


@pytest.mark.parametrize(
    ("architecture", "extra", "window"),
    [
        ("LlamaForCausalLM", {"sliding_window": 16}, None),
        ("Qwen2ForCausalLM", {"sliding_window": 16, "use_sliding_window": False}, None),
        ("Qwen2ForCausalLM", {"sliding_window": 16, "use_sliding_window": True}, 16),
        ("MistralForCausalLM", {}, 4096),
        ("MistralForCausalLM", {"sliding_window": None}, None),
        ("Phi3ForCausalLM", {"sliding_window": 262144, "max_position_embeddings": 131072}, None),
    ],
)
def test_a_sliding_window_is_recorded_where_it_takes_effect(architecture, extra, window):
    assert parse_decoder(LLAMA | {"architectures": [architecture]} | extra).sliding_window == window


def test_rope_is_read_in_its_older_and_newer_form():
    older = parse_decoder(LLAMA | {"rope_theta": 500, "rope_scaling": {"type": "dynamic", "factor": 2.0}})
    newer = parse_decoder(LLAMA | {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 500.0}})
    assert older.rope == newer.rope == RopeSpec("dynamic", 500.0, 2048, 2048, factor=2.0)


def test_longrope_is_plain_up_to_the_original_length():
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    spec = parse_decoder(LLAMA | {"original_max_position_embeddings": 96, "rope_scaling": {"type": "su"} | factors})
    assert (spec.rope.kind, spec.rope.plain_length, spec.rope.max_position) == ("longrope", 96, 2048)
    assert spec.rope.long_factors == (2.0,) * 4


@pytest.mark.parametrize(
    ("scaling", "word"),
    [
        ({"type": "yarn"}, "yarn"),
        ({"type": "dynamic", "factor": -1}, "factor"),
        ({"type": "su", "short_factor": [1.0] * 3, "long_factor": [1.0] * 4}, "short_factor"),
        ({"type": "su", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, None, 4.0]}, "long_factor"),
        ([2.0], "rope_scaling"),
    ],
)
def test_a_rope_that_is_not_known_or_not_whole_is_named(scaling, word):
    with pytest.raises(ModelError, match=word):
        parse_decoder(LLAMA | {"rope_scaling": scaling})


@pytest.mark.parametrize(("select_layer", "used"), [(-1, 6), (-4, 3), (2, 2), (6, 6)])
def test_only_the_blocks_up_to_select_layer_are_built(select_layer, used):
    assert parse_internvl(CHAT | {"select_layer": select_layer}).vision.num_layers == used


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"select_layer": 7}, "select_layer"),
        ({"select_layer": 0}, "select_layer"),
        ({"ps_version": "v3"}, "ps_version"),
        ({"downsample_ratio": 0.3}, "downsample_ratio"),
        ({"downsample_ratio": 2}, "downsample_ratio"),
        ({"force_image_size": 50}, "image size 50"),
        ({"force_image_size": 42}, "downsample_ratio"),
        ({"llm_config": None}, "llm_config"),
        ({"vision_config": VISION | {"hidden_act": "relu"}}, "hidden_act"),
        ({"vision_config": VISION | {"num_attention_heads": 4}}, "4 heads"),
        ({"use_backbone_lora": 8}, "LoRA"),
    ],
)
def test_a_chat_config_that_cannot_be_is_named(changes, word):
    with pytest.raises(ModelError, match=word):
        parse_internvl(CHAT | changes)


def test_tokens_per_tile_follow_the_forced_image_size():
    assert parse_internvl(CHAT).tile.num_tokens == 4
    assert parse_internvl(CHAT | {"force_image_size": 112}).tile.num_tokens == 16


def test_an_architecture_is_found_by_name_or_model_type():
    assert resolve_architecture(CHAT) == "InternVLChatModel"
    assert resolve_architecture({"model_type": "internvl_chat"}) == "InternVLChatModel"


@pytest.mark.parametrize(
    "config", [{"architectures": ["LlavaNext"]}, {"model_type": "bert"}, {}, {"architectures": []}]
)
def test_an_unknown_architecture_lists_what_is_supported(config):
    with pytest.raises(ModelError, match="not supported; supported: .*InternVLChatModel") as caught:
        resolve_architecture(config)
    assert "\n" not in str(caught.value)


def test_an_unknown_backbone_lists_those_that_are_known():
    with pytest.raises(ModelError, match="InternLM3ForCausalLM.*Qwen2ForCausalLM"):
        parse_decoder(LLAMA | {"architectures": ["InternLM3ForCausalLM"]})


@pytest.mark.parametrize(("text", "word"), [("{", "not valid JSON"), ("[]", "JSON object"), (None, "cannot be read")])
def test_a_config_file_that_is_none_is_named(tmp_path, text, word):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=word):
        read_config(tmp_path)


def test_a_config_file_may_be_any_utf8(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"system_message": "你是"}, ensure_ascii=False), encoding="utf-8")
    assert read_config(tmp_path) == {"system_message": "你是"}
