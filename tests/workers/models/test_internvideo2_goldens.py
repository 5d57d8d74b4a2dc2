"""InternVideo2-Chat against what the authors' own code computed, from media files to answers, through the engine.

Of the HD set, all but the prompts runs when GLIMPSED_GOLDENS points to the full set.
"""

import pytest
import torch
from safetensors import safe_open

from tests.workers.models.engine_run import engine, run, run_counting, tight_blocks
from tests.workers.models.goldens import FULL, LEAN, Case, cases, find_case, model, set_path
from tests.workers.models.internvideo2 import CHAT, HD, media, prompt
from workers.models.layers import PixelNorm
from workers.tokenizers.load import load_tokenizer

SETS = [name for name in (CHAT, HD) if (LEAN / name / "expected.safetensors").is_file() or FULL is not None]
ALL = [pytest.param(case, id=f"{case.set_name}-{case.name}") for case in cases(SETS)]
WITH_MEDIA = [parameter for parameter in ALL if parameter.values[0].media_urls]


@pytest.mark.parametrize("case", ALL)
def test_answers_equal_the_reference(case: Case):
    run(engine(case.set_name), [case])[0].assert_matches()


@pytest.mark.parametrize("case", [pytest.param(c, id=f"{c.set_name}-{c.name}") for c in cases([CHAT, HD])])
def test_prompt_ids_equal_the_reference(case: Case):
    built = prompt(case)
    assert built.token_ids == case.raw["input_ids"]
    assert [len(built.spans)] == (case.raw["num_patches_list"] or [0])
    where = case.raw["visual_token_positions"]
    assert [built.spans[0].start, built.spans[-1].start + 95] == where if built.spans else where == []


@pytest.mark.parametrize("case", WITH_MEDIA)
def test_visual_embeddings_equal_the_reference(case: Case):
    net = model(case.set_name)
    with torch.inference_mode():
        found = torch.cat([net.encode_inputs(view.data) for view in prompt(case).inputs])
    torch.testing.assert_close(found, case.expected("visual_embeds"), atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", ALL)
def test_texts_equal_the_recorded_ones(case: Case):
    if not case.raw["greedy_text_portable"]:
        pytest.skip("decoders differ on stray bytes and control tokens")
    tokenizer = load_tokenizer(set_path(case.set_name) / "checkpoint")
    assert tokenizer.decode(case.greedy_ids, skip_special_tokens=True) == case.raw["greedy_text"]


@pytest.mark.parametrize("budget", [1, 7, 64])
@pytest.mark.parametrize("name", ["video_second_turn", "image_system"])
def test_a_prompt_in_chunks_gives_the_same(name: str, budget: int):
    run(engine(CHAT, budget=budget), [find_case(CHAT, name)])[0].assert_matches()


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("set_name", SETS)
def test_all_cases_together_give_the_same(set_name: str, prefix_cache: bool):
    core = engine(set_name, num_blocks=2000, budget=100, block_size=4, prefix_cache=prefix_cache)
    for result in run(core, cases([set_name])):
        result.assert_matches()


def test_an_answer_started_elsewhere_is_finished_as_it_would_have_been():
    run(engine(CHAT), [find_case(CHAT, "video")], num_known=5)[0].assert_matches()


def test_answers_survive_the_loss_of_their_pages():
    packed = [find_case(CHAT, name) for name in ("video", "image_system", "text_only")]
    core = engine(CHAT, num_blocks=tight_blocks(packed, 1), block_size=1, max_num_seqs=3)
    results, num_preempted = run_counting(core, packed)
    assert num_preempted > 0
    for result in results:
        result.assert_matches()


@pytest.mark.skipif(FULL is None, reason="needs the full golden set in GLIMPSED_GOLDENS")
@pytest.mark.parametrize("case", WITH_MEDIA)
def test_normalised_pixels_equal_the_reference(case: Case):
    with safe_open(FULL / case.set_name / "expected.safetensors", framework="pt") as file:
        expected = file.get_tensor(f"{case.name}/pixel_values_s14")
    views = PixelNorm(torch.device("cpu"))(torch.from_numpy(media(case)[0].tiles)).permute(0, 1, 4, 2, 3)
    torch.testing.assert_close(views[..., 5::14, 5::14], expected, atol=2e-5, rtol=0)
