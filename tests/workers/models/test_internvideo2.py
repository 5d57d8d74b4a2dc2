"""InternVideo2-Chat's config, towers and weights, apart from the golden answers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.workers.models.goldens import LEAN, model
from workers.models.base import ModelError
from workers.models.internvideo2_config import parse_internvideo2
from workers.models.internvideo2_vision import resize_in_time
from workers.models.registry import build_model, read_model_config
from workers.weights.load import load_model, measure_model
from workers.weights.lora import Lora
from workers.weights.sources import DummySource

CPU = torch.device("cpu")
CHAT = "internvideo2-chat"
MISTRAL = "mistralai/Mistral-7B-Instruct-v0.3"
LORA = "lm.base_model.model.model.layers.1.mlp.up_proj.lora_B.default.weight"


def published(**changes: Any) -> dict[str, Any]:
    """The published config.json, cut down to what decides sizes; changes: of its `llm` section."""
    return {
        "architectures": ["InternVideo2_VideoChat2"],
        "model_config": {
            "bridge": {"name": "qformer", "num_query_token": 32, "extra_num_query_token": 64},
            "llm": {
                "name": "mistral_7b",
                "pretrained_llm_path": MISTRAL,
                "use_lora": True,
                "lora_r": 16,
                "lora_alpha": 32,
            }
            | changes,
            "vision_encoder": {"encoder_embed_dim": 1408, "num_frames": 8, "x_vis_return_idx": -2, "patch_size": 14},
        },
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the golden checkpoint that a test may damage."""
    return Path(shutil.copytree(LEAN / CHAT / "checkpoint", tmp_path / "checkpoint"))


def test_the_published_checkpoint_has_the_bytes_that_its_index_says():
    size = measure_model(published(), torch.bfloat16)
    hidden, ffn, words, rank = 4096, 14336, 32768, 16
    pairs = [(hidden, hidden), (hidden, 1024), (hidden, 1024), (hidden, hidden)]  # q, k, v, o
    pairs += [(hidden, ffn), (hidden, ffn), (ffn, hidden)]
    adapters = rank * (32 * sum(map(sum, pairs)) + hidden + words)
    decoder = 32 * (sum(a * b for a, b in pairs) + 2 * hidden) + 2 * words * hidden + hidden
    project_down, position_ids_bytes = hidden * 768 + 768, 8 * 512
    bridge_and_tower = size.num_parameters - decoder + project_down
    # The text backbone is stored in bfloat16, everything else in float32.
    assert 2 * decoder + 4 * (adapters + bridge_and_tower) + position_ids_bytes == 19389432832
    assert size.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2


def test_only_the_blocks_that_are_read_are_built():
    spec = parse_internvideo2(published())
    assert (spec.vision.num_layers, spec.vision.num_heads, spec.vision.intermediate_size) == (39, 16, 6144)
    assert spec.qformer.num_tokens == 96 and spec.lora_scale == 2.0


def test_companion_configs_come_from_inside_the_checkpoint():
    spec = parse_internvideo2(read_model_config(LEAN / CHAT / "checkpoint"))
    assert (spec.decoder.hidden_size, spec.qformer.hidden_size, spec.qformer.num_heads) == (48, 48, 4)


@pytest.mark.parametrize("name", ["../../etc", "a/../b", "/etc", "..", "", "a\\..\\b", None, 3])
def test_a_language_model_name_never_leads_out_of_the_checkpoint(folder: Path, name: Any):
    (folder / "config.json").write_text(json.dumps(published(pretrained_llm_path=name)))
    with pytest.raises(ModelError, match="pretrained_llm_path"):
        read_model_config(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"name": "internlm2_5_7b"}, "mistral_7b"), ({"pretrained_llm_path": "someone/else"}, "someone/else")],
)
def test_an_unknown_language_model_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        parse_internvideo2(published(**changes))


def test_positions_are_stretched_over_time_alone():
    table = torch.randn(1, 1 + 4 * 3, 5)
    found = resize_in_time(table, 4, 8)
    assert torch.equal(found[:, 0], table[:, 0])
    tracks = table[0, 1:].view(4, 3, 5)
    # Linear, centres aligned: new frame t lies at (t + 0.5) / 2 - 0.5 of the old ones.
    expected = torch.stack([_between(tracks, (t + 0.5) / 2 - 0.5) for t in range(8)])
    torch.testing.assert_close(found[0, 1:].view(8, 3, 5), expected)


def _between(tracks: torch.Tensor, place: float) -> torch.Tensor:
    place = min(max(place, 0.0), len(tracks) - 1.0)
    low = int(place)
    high = min(low + 1, len(tracks) - 1)
    return tracks[low] + (place - low) * (tracks[high] - tracks[low])


def test_an_instruction_changes_what_is_read_and_views_do_not_mix():
    net = model(CHAT)
    views = torch.rand(2, 1, 224, 224, 3, generator=torch.Generator().manual_seed(0)) * 255
    with torch.inference_mode():
        plain, told = net.encode_tiles(views), net.encode_tiles(views, (2, 93, 90, 3))
        alone = net.encode_tiles(views[1:], (2, 93, 90, 3))
    assert plain.shape == told.shape == (2, 96, 48)
    assert (plain - told).abs().max() > 0.05
    torch.testing.assert_close(told[1:], alone, atol=1e-4, rtol=0)


def test_pixels_are_left_as_they_were():
    views = torch.full((1, 1, 224, 224, 3), 90.0)
    with torch.inference_mode():
        model(CHAT).encode_tiles(views)
    assert (views == 90.0).all()


def test_adapters_are_added_in_float32():
    weight, a, b = torch.ones(3, 4, dtype=torch.bfloat16), torch.full((2, 4), 0.5), torch.full((3, 2), 0.25)
    merged = Lora(2.0, ("proj.weight",)).merge("x.proj.weight", weight, {"a": a, "b": b})
    assert merged.dtype == torch.float32 and torch.equal(merged, torch.full((3, 4), 1.5))


def test_a_missing_adapter_is_an_error(folder: Path):
    tensors = load_file(folder / "model.safetensors")
    del tensors[LORA]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"up_proj\.lora_B"):
        load_model(folder, CPU)


def test_an_adapter_of_another_shape_is_an_error(folder: Path):
    tensors = load_file(folder / "model.safetensors")
    tensors[LORA] = tensors[LORA][:, :-1].contiguous()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match="do not fit"):
        load_model(folder, CPU)


def test_a_vocabulary_that_the_weights_extend_is_taken_as_it_is(folder: Path):
    """The authors add a token to BERT's vocabulary: the weights have a row more than BERT's own config says."""
    tensors = load_file(folder / "model.safetensors")
    name = "qformer.bert.embeddings.word_embeddings.weight"
    tensors[name] = torch.cat((tensors[name], torch.zeros(1, 48)))
    save_file(tensors, folder / "model.safetensors")
    with torch.inference_mode():
        found = load_model(folder, CPU).encode_tiles(torch.zeros(1, 1, 224, 224, 3), (104,))
    assert torch.isfinite(found).all()


def test_random_weights_give_finite_embeddings():
    config = read_model_config(LEAN / CHAT / "checkpoint")
    net = build_model(config, DummySource(CPU, torch.bfloat16))
    with torch.inference_mode():
        found = net.encode_tiles(torch.full((1, 2, 224, 224, 3), 128.0))
    assert found.dtype == torch.bfloat16 and torch.isfinite(found).all()
