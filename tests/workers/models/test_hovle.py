"""HoVLE, plain and unfolded (HD), against what the authors' own code computed, through the engine."""

import json
import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.workers.models.engine_run import engine, run, run_counting, sequence, tight_blocks
from tests.workers.models.goldens import LEAN, Case, cases, find_case, model
from workers.engine.sampling import Sampling
from workers.engine.sequence import Sequence as EngineSequence
from workers.models.base import ModelError
from workers.models.hovle import parse_hovle
from workers.models.registry import build_model, resolve_architecture
from workers.weights.load import load_model, measure_model
from workers.weights.sources import DummySource

CPU = torch.device("cpu")
PLAIN, UNFOLDED = "hovle", "hovle_hd"
ALL = [pytest.param(case, id=f"{case.set_name}-{case.name}") for case in cases([PLAIN, UNFOLDED])]
WITH_MEDIA = [parameter for parameter in ALL if parameter.values[0].media_urls]


def config(set_name: str, **changes: Any) -> dict[str, Any]:
    """A set's config.json with other values in its embedding_config."""
    raw = json.loads((LEAN / set_name / "checkpoint" / "config.json").read_text())
    return raw | {"embedding_config": raw["embedding_config"] | changes}


def build_dummy(raw: dict[str, Any]) -> Any:
    """A model of a config, with any weights."""
    return build_model(raw, DummySource(CPU, torch.float32))


@pytest.mark.parametrize("case", ALL)
def test_answers_equal_the_reference(case: Case):
    run(engine(case.set_name), [case])[0].assert_matches()


@pytest.mark.parametrize("case", WITH_MEDIA)
def test_rows_of_the_lower_stack_equal_the_reference(case: Case):
    net = model(case.set_name)
    with torch.inference_mode():
        found = net.encode_tiles(case.tiles())
    expected = case.expected("visual_embeds")
    if case.set_name == UNFOLDED:
        # The reference has a tile's patches row by row, we have the four of each token side by side.
        lines = expected.view(len(expected), 2, 2, 2, 2, -1).transpose(2, 3)
        expected = lines.reshape(found.shape)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("budget", [1, 7, 64])
@pytest.mark.parametrize(("set_name", "name"), [(PLAIN, "two_images"), (UNFOLDED, "image_multi_turn")])
def test_a_prompt_in_chunks_gives_the_same(set_name: str, name: str, budget: int):
    run(engine(set_name, budget=budget), [find_case(set_name, name)])[0].assert_matches()


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize(("budget", "block_size"), [(11, 3), (1024, 16)])
@pytest.mark.parametrize("set_name", [PLAIN, UNFOLDED])
def test_all_cases_together_give_the_same(set_name: str, budget: int, block_size: int, prefix_cache: bool):
    core = engine(set_name, 500, block_size, budget, prefix_cache=prefix_cache)
    for result in run(core, cases([set_name])):
        result.assert_matches()


@pytest.mark.parametrize("block_size", [3, 8])
@pytest.mark.parametrize("set_name", [PLAIN, UNFOLDED])
def test_a_second_request_that_finds_its_prefix_gives_the_same(set_name: str, block_size: int):
    core = engine(set_name, 500, block_size)
    run(core, cases([set_name]))
    for case in cases([set_name]):
        result = run(core, [case])[0]
        result.assert_matches()
        assert result.seq.num_cached_tokens > 100


@pytest.mark.parametrize("num_evicted", [18, 19, 20, 21])
@pytest.mark.parametrize("budget", [5, 1024])
def test_a_found_prefix_may_end_within_a_line_of_tokens(num_evicted: int, budget: int):
    case, block_size = find_case(UNFOLDED, "image"), 3
    prompt = sequence(case)
    num_pages = -(-prompt.max_total_tokens // block_size)
    core = engine(UNFOLDED, num_pages, block_size, budget)
    run(core, [case])
    num_blank = num_pages - prompt.num_prompt_tokens // block_size
    length = block_size * (num_blank + num_evicted)
    core.add(EngineSequence("filler", [7] * length, length, length + 1, sampling=Sampling(temperature=0.0)))
    while core.scheduler.has_work:
        core.step()
    result = run(core, [case])[0]
    offset = result.seq.num_cached_tokens - prompt.media[0].start
    assert 0 < offset < prompt.media[0].length
    assert offset % 2 != num_evicted % 2  # so that both halves of a line are met
    result.assert_matches()


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("set_name", [PLAIN, UNFOLDED])
def test_preempted_sequences_give_the_same(set_name: str, prefix_cache: bool):
    pair = cases([set_name])[-2:]
    core = engine(set_name, tight_blocks(pair, 4), block_size=4, budget=48, prefix_cache=prefix_cache)
    results, num_preempted = run_counting(core, pair)
    assert num_preempted > 0
    for result in results:
        result.assert_matches()


@pytest.mark.parametrize("budget", [1, 1024])
@pytest.mark.parametrize("case", ALL)
def test_a_sequence_taken_over_from_another_worker_gives_the_same(case: Case, budget: int):
    run(engine(case.set_name, budget=budget), [case], num_known=9)[0].assert_matches()


def test_an_answer_that_comes_back_as_a_prompt_is_computed_anew():
    """In the unfolded layout a generated token is not what the same token in a prompt is."""
    case = find_case(UNFOLDED, "image_single_tile")
    known = case.greedy_ids[:20]

    def answer(core: Any) -> tuple[Any, Any]:
        seq = sequence(case, name="again")
        seq.token_ids = [*case.raw["input_ids"], *known, 5]
        seq.num_prompt_tokens, seq.max_total_tokens = seq.num_tokens, seq.num_tokens + 4
        core.add(seq)
        outputs = [output for _ in range(4) for output in core.step()]
        return seq, [output.logprobs.top for output in outputs]

    warm = engine(UNFOLDED, block_size=4)
    run(warm, [case])
    seq, found = answer(warm)
    assert 0 < seq.num_cached_tokens <= len(case.raw["input_ids"])
    _, expected = answer(engine(UNFOLDED, block_size=4, prefix_cache=False))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=2e-4, rtol=0)


def test_ids_behind_the_first_text_table_come_from_the_second(tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(LEAN / PLAIN / "checkpoint", folder)
    names = {f"<extra_{i}>": i for i in range(3)}
    (folder / "config.json").write_text(json.dumps(config(PLAIN, special_token_maps=names)))
    file = folder / "model.safetensors"
    extra = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    tensors = load_file(file) | {"embedding_model.special_text_embeddings.weight": extra}
    file.unlink()
    save_file(tensors, file)
    net = load_model(folder, CPU)
    found = net.embed_tokens(torch.tensor([1214, 1215, 1217]))
    first = tensors["embedding_model.llm_text_embeddings.weight"][1214:]
    assert torch.equal(found, torch.cat((first, extra[[0, 2]])))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"use_ls": True}, "use_ls"),
        ({"use_pixel_shuffle_proj": False}, "use_pixel_shuffle_proj"),
        ({"pixel_shuffle_loc": "middle"}, "pixel_shuffle_loc"),
        ({"hidden_size": 32}, "hidden_size .* 32 and 64"),
        ({"downsample_ratio": 0.25}, "downsample_ratio"),
        ({"num_key_value_heads": 3}, "3 key/value heads"),
        ({"llm_vocab_size": None}, "llm_vocab_size"),
    ],
)
def test_a_config_that_cannot_be_is_named(changes: dict[str, Any], word: str):
    with pytest.raises(ModelError, match=word):
        parse_hovle(config(PLAIN, **changes))


def test_the_family_is_known_by_its_second_stack():
    assert resolve_architecture(config(PLAIN)) == "HoVLE"


@pytest.mark.parametrize(
    ("set_name", "rope", "length", "extends"),
    [
        (PLAIN, None, 4096, False),
        (PLAIN, {"type": "dynamic", "factor": 2.0}, 4096, True),
        (UNFOLDED, None, 4096, False),
        # Behind 1024 tokens the unfolded prompt could leave the region where the rotation is plain.
        (UNFOLDED, {"type": "dynamic", "factor": 2.0}, 1024, False),
    ],
)
def test_the_context_is_what_both_stacks_can_rotate(set_name: str, rope: Any, length: int, extends: bool):
    net = build_dummy(config(set_name, rope_scaling=rope))
    assert (net.max_position_embeddings, net.rope_extends) == (length, extends)


def test_keys_of_both_stacks_are_counted():
    plain, unfolded = (build_dummy(config(name)).kv_spec for name in (PLAIN, UNFOLDED))
    assert plain.bytes_per_token(torch.float32) == 2 * 4 * (3 * 2 * 8 + 2 * 2 * 16)
    assert unfolded.bytes_per_token(torch.float32) == 2 * 4 * (2 * 2 * 16 + 4 * 2 * 2 * 16)


def test_the_published_size_counts_the_table_that_nothing_reads():
    sizes = {"hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 8, "intermediate_size": 8192}
    llm = sizes | {"architectures": ["InternLM2ForCausalLM"], "bias": False, "vocab_size": 92553}
    embedding = sizes | {"num_hidden_layers": 8, "llm_vocab_size": 92553, "image_size": 448, "patch_size": 14}
    published = {"architectures": ["InternVLChatModel"], "embedding_config": embedding}
    published |= {"llm_config": llm | {"num_hidden_layers": 24}, "force_image_size": 448}
    num_parameters = measure_model(published, torch.bfloat16).num_parameters + 92553 * 2048
    assert round(num_parameters / 1e9, 1) == 2.6


def test_pages_are_shared_only_while_both_stacks_rotate_plainly():
    stretched = {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 64}
    plain = build_dummy(config(PLAIN, **stretched))
    assert [plain.rope_regime(length) for length in (64, 65, 40000)] == [0, 65, 40000]
    assert [build_dummy(config(PLAIN)).rope_regime(length) for length in (4096, 32768, 32769)] == [0, 0, 32769]
    # Here the lower stack never leaves the plain region: the context ends before.
    assert build_dummy(config(UNFOLDED, **stretched)).rope_regime(65) == 0
