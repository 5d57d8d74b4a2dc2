"""Mono-InternVL against what the authors' own code computed, through the engine."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.workers.models.engine_run import engine, run, run_counting, tight_blocks
from tests.workers.models.goldens import LEAN, Case, cases, find_case, model
from workers.attention.base import Routes
from workers.models.base import ModelError
from workers.models.config import parse_decoder
from workers.models.decoder import DecoderLayer
from workers.models.registry import resolve_architecture
from workers.models.rope import Rope
from workers.weights.load import load_model, measure_model
from workers.weights.sources import DummySource

CPU = torch.device("cpu")
MAIN, EXTENDED = "mono-internvl", "mono-internvl-ext"
ALL = [pytest.param(case, id=f"{case.set_name}-{case.name}") for case in cases([MAIN, EXTENDED])]
WITH_MEDIA = [parameter for parameter in ALL if parameter.values[0].media_urls]


@pytest.mark.parametrize("case", ALL)
def test_answers_equal_the_reference(case: Case):
    run(engine(case.set_name), [case])[0].assert_matches()


@pytest.mark.parametrize("case", WITH_MEDIA)
def test_visual_embeddings_equal_the_reference(case: Case):
    with torch.inference_mode():
        found = model(case.set_name).encode_tiles(case.tiles()).flatten(0, 1)
    torch.testing.assert_close(found, case.expected("visual_embeds"), atol=1e-4, rtol=0)


@pytest.mark.parametrize("budget", [1, 7, 64])
@pytest.mark.parametrize(("set_name", "name"), [(MAIN, "two_images"), (EXTENDED, "image_beyond_max_position")])
def test_a_prompt_in_chunks_gives_the_same(set_name: str, name: str, budget: int):
    run(engine(set_name, budget=budget), [find_case(set_name, name)])[0].assert_matches()


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("budget", [16, 1024])
@pytest.mark.parametrize("set_name", [MAIN, EXTENDED])
def test_all_cases_together_give_the_same(set_name: str, budget: int, prefix_cache: bool):
    core = engine(set_name, budget=budget, block_size=4, prefix_cache=prefix_cache)
    for result in run(core, cases([set_name])):
        result.assert_matches()


@pytest.mark.parametrize("set_name", [MAIN, EXTENDED])
def test_a_second_request_that_finds_its_prefix_gives_the_same(set_name: str):
    core = engine(set_name, block_size=4)
    run(core, cases([set_name]))
    for case in cases([set_name]):
        result = run(core, [case])[0]
        result.assert_matches()
        assert result.seq.num_cached_tokens > 100


@pytest.mark.parametrize("set_name", [MAIN, EXTENDED])
@pytest.mark.parametrize("prefix_cache", [True, False])
def test_preempted_sequences_give_the_same(set_name: str, prefix_cache: bool):
    pair = cases([set_name])[-2:]
    core = engine(set_name, tight_blocks(pair, 4), block_size=4, budget=48, prefix_cache=prefix_cache)
    results, num_preempted = run_counting(core, pair)
    assert num_preempted > 0
    for result in results:
        result.assert_matches()


@pytest.mark.parametrize("case", ALL)
def test_a_sequence_taken_over_from_another_worker_gives_the_same(case: Case):
    run(engine(case.set_name), [case], num_known=9)[0].assert_matches()


def test_the_routed_layer_equals_both_mlps_blended():
    config = {"architectures": ["InternLM2VEForCausalLM"], "bias": False, "vocab_size": 8, "hidden_size": 16}
    spec = parse_decoder(config | {"intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2})
    layer = DecoderLayer(spec, DummySource(CPU, torch.float32), "", 0, Rope(spec.rope, 8, CPU, torch.float32))
    hidden = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    cos, sin = torch.ones(5, 1, 8), torch.zeros(5, 1, 8)

    def forward(text: list[int], visual: list[int]) -> torch.Tensor:
        routes = Routes(torch.tensor(text, dtype=torch.int64), torch.tensor(visual, dtype=torch.int64))
        return layer(hidden, cos, sin, lambda _, q, k, v: q.flatten(1), routes)

    text_only, visual_only = forward([0, 1, 2, 3, 4], []), forward([], [0, 1, 2, 3, 4])
    mixed = forward([0, 3], [1, 2, 4])
    torch.testing.assert_close(mixed[[0, 3]], text_only[[0, 3]])
    torch.testing.assert_close(mixed[[1, 2, 4]], visual_only[[1, 2, 4]])
    assert not torch.allclose(text_only, visual_only)
    plain = layer(hidden, cos, sin, lambda _, q, k, v: q.flatten(1), None)
    torch.testing.assert_close(plain, text_only)


def test_attention_experts_of_a_later_release_are_refused(tmp_path):
    shutil.copytree(LEAN / MAIN / "checkpoint", tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "model.safetensors"
    name = "language_model.model.layers.0.attention.wqkv_ve.weight"
    file.chmod(0o644)
    save_file(load_file(file) | {name: torch.zeros(2, 2)}, file)
    with pytest.raises(ModelError, match="unexpected tensor language_model.*wqkv_ve"):
        load_model(tmp_path / "checkpoint", CPU)


def test_the_family_is_known_by_its_backbone_and_needs_no_encoder_sizes():
    config = json.loads((LEAN / MAIN / "checkpoint" / "config.json").read_text())
    config["vision_config"] = {"hidden_size": 1024, "image_size": 448, "patch_size": 14}
    assert resolve_architecture(config) == "MonoInternVL"


def test_the_published_size():
    llm = {"architectures": ["InternLM2VEForCausalLM"], "bias": False, "vocab_size": 92553, "hidden_size": 2048}
    llm |= {"num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 8, "intermediate_size": 8192}
    config = {"architectures": ["InternVLChatModel"], "llm_config": llm, "force_image_size": 448}
    config["vision_config"] = {"hidden_size": 1024, "image_size": 448, "patch_size": 14}
    assert round(measure_model(config, torch.bfloat16).num_parameters / 1e9, 2) == 3.11
