"""PVC-InternVL2 against the golden re-implementation of the paper, through the engine; its guesses by themselves."""

from typing import Any

import pytest
import torch
from safetensors import safe_open

from tests.workers.models.engine_run import engine, run, run_counting, tight_blocks
from tests.workers.models.goldens import FULL, LEAN, Case, cases, find_case, model, read_json
from tests.workers.models.pvc import PVC, media, prompt
from workers.models.base import ModelError
from workers.models.layers import PixelNorm
from workers.models.pvc import Frames, parse_pvc
from workers.models.registry import build_model, resolve_architecture
from workers.weights.load import load_model
from workers.weights.sources import DummySource

CPU = torch.device("cpu")
ALL = [pytest.param(case, id=case.name) for case in cases([PVC])]
WITH_MEDIA = [parameter for parameter in ALL if parameter.values[0].media_urls]


def config(**changes: Any) -> dict[str, Any]:
    return read_json(PVC, "checkpoint/config.json") | changes


def clip(num_frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (num_frames, 112, 112, 3), generator=torch.Generator().manual_seed(seed)).byte()


def encode(pixels: torch.Tensor, is_clip: bool, net: Any = None) -> torch.Tensor:
    with torch.inference_mode():
        return (net or model(PVC)).encode_inputs(Frames(pixels.numpy(), is_clip))


@pytest.mark.parametrize("case", ALL)
def test_answers_equal_the_reference(case: Case):
    run(engine(PVC), [case])[0].assert_matches()


@pytest.mark.parametrize("case", WITH_MEDIA)
def test_visual_embeddings_equal_the_reference(case: Case):
    net, built = model(PVC), prompt(case)
    unique = {own.digest: own.data for own in built.inputs}
    with torch.inference_mode():
        found = torch.cat([net.encode_inputs(data) for data in unique.values()])
    torch.testing.assert_close(found, case.expected("visual_embeds").flatten(0, 1), atol=1e-4, rtol=0)


@pytest.mark.skipif(FULL is None, reason="needs the full golden set in GLIMPSED_GOLDENS")
@pytest.mark.parametrize("case", WITH_MEDIA)
def test_normalised_pixels_equal_the_reference_bit_for_bit(case: Case):
    with safe_open(FULL / PVC / "expected.safetensors", framework="pt") as file:
        expected = file.get_tensor(f"{case.name}/pixel_values")
    tiles = torch.cat([torch.from_numpy(item.tiles) for item in media(case)])
    assert torch.equal(PixelNorm(CPU)(tiles).permute(0, 3, 1, 2), expected)


@pytest.mark.parametrize("budget", [1, 7, 64])
@pytest.mark.parametrize("name", ["video_16", "multi_image"])
def test_a_prompt_in_chunks_gives_the_same(name: str, budget: int):
    run(engine(PVC, budget=budget), [find_case(PVC, name)])[0].assert_matches()


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize(("budget", "block_size"), [(11, 3), (1024, 16)])
def test_all_cases_together_give_the_same(budget: int, block_size: int, prefix_cache: bool):
    for result in run(engine(PVC, 800, block_size, budget, prefix_cache=prefix_cache), cases([PVC])):
        result.assert_matches()


def test_a_second_request_that_finds_its_prefix_gives_the_same():
    core = engine(PVC, 500, 3)
    run(core, cases([PVC]))
    for case in cases([PVC]):
        result = run(core, [case])[0]
        result.assert_matches()
        assert result.seq.num_cached_tokens > 100


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_preempted_sequences_give_the_same(prefix_cache: bool):
    pair = [find_case(PVC, "video_8"), find_case(PVC, "image")]
    core = engine(PVC, tight_blocks(pair, 4), block_size=4, budget=48, prefix_cache=prefix_cache)
    results, num_preempted = run_counting(core, pair)
    assert num_preempted > 0
    for result in results:
        result.assert_matches()


@pytest.mark.parametrize("name", ["video_8", "image"])
def test_a_sequence_taken_over_from_another_worker_gives_the_same(name: str):
    run(engine(PVC), [find_case(PVC, name)], num_known=9)[0].assert_matches()


def test_a_clip_is_encoded_once_though_its_frames_lie_apart():
    core, encoded = engine(PVC, budget=5), []
    schedule = core.scheduler.schedule

    def recording(alone=None):
        plan = schedule(alone)
        encoded.extend(item.key for item in plan.encode)
        return plan

    core.scheduler.schedule = recording
    run(core, [find_case(PVC, "video_16")])[0].assert_matches()
    assert len(encoded) == 1


def test_a_frame_sees_earlier_frames_and_the_clips_length_but_nothing_later():
    pixels = clip(4)
    changed = pixels.clone()
    changed[2] = 255 - changed[2]
    before, after = (encode(frames, True).view(4, -1) for frames in (pixels, changed))
    assert torch.equal(before[:2], after[:2])
    assert all((before[i] - after[i]).abs().max() > 1e-2 for i in (2, 3))
    assert (encode(pixels[:2], True).view(2, -1)[1] - before[1]).abs().max() > 1e-2


def test_a_pictures_tiles_do_not_see_each_other_and_come_repetition_by_repetition():
    both = encode(clip(2), False).view(4, 2, -1)
    for tile in range(2):
        alone = encode(clip(2)[tile : tile + 1], False).view(4, -1)
        torch.testing.assert_close(both[:, tile], alone, atol=1e-5, rtol=0)
    assert all((both[i] - both[0]).abs().max() > 1e-2 for i in (1, 2, 3))


def test_repetitions_of_a_picture_are_those_of_a_clip_of_equal_frames():
    picture = clip(1)
    found = encode(picture, False)
    torch.testing.assert_close(found, encode(picture.repeat(4, 1, 1, 1), True), atol=1e-5, rtol=0)


def test_bfloat16_stays_near_float32():
    net = load_model(LEAN / PVC / "checkpoint", CPU, "bfloat16")
    for is_clip in (True, False):
        expected, found = encode(clip(6), is_clip), encode(clip(6), is_clip, net).float()
        assert (found - expected).norm() / expected.norm() < 0.03


def test_without_temporal_parts_repetitions_are_equal():
    net = build_model(config(use_temporal=False), DummySource(CPU, torch.float32))
    found = encode(clip(2), False, net).view(4, 2, 4, -1)
    assert torch.equal(found, found[:1].expand(4, -1, -1, -1))
    assert len(encode(clip(3), True, net)) == 3 * 4


@pytest.mark.parametrize("use_temporal", [True, False])
def test_the_family_is_known_by_its_model_type(use_temporal: bool):
    raw = config(use_temporal=use_temporal, architectures=None)
    assert resolve_architecture(raw) == "PVCInternVLModel"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"tile_repeat_way": "interleave"}, "tile_repeat_way is 'interleave'"),
        ({"mlp_add_ops": ["conv"]}, r"mlp_add_ops is \['conv'\]"),
        ({"video_repeat_time": 2}, "video_repeat_time is 2"),
        ({"image_repeat_time": 0}, "image_repeat_time"),
        ({"use_temporal": "yes"}, "use_temporal"),
        ({"select_layer": -2}, "select_layer -2"),
        ({"use_llm_lora": 8}, "LoRA"),
        ({"downsample_ratio": 0.3}, "downsample_ratio"),
    ],
)
def test_a_config_that_asks_for_what_nobody_knows_is_refused(changes: dict[str, Any], word: str):
    with pytest.raises(ModelError, match=word):
        parse_pvc(config(**changes))


def test_more_temporal_layers_than_there_are_is_refused():
    with pytest.raises(ModelError, match="temporal_num_layers 4 exceeds the 3 layers"):
        parse_pvc(config(vision_config=config()["vision_config"] | {"temporal_num_layers": 4}))
