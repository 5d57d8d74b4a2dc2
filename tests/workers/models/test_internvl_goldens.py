"""The InternVL-Chat family against what the authors' own code computed.

Cases whose pictures are not in the lean copy run when GLIMPSED_GOLDENS points to the full set.
"""

import pytest
import torch
from safetensors import safe_open

from tests.workers.models.dense_attention import DenseAttention
from tests.workers.models.goldens import FULL, Case, cases, find_case, model
from tests.workers.models.packed import run_packed
from workers.attention.base import Step
from workers.models.layers import PixelNorm

pytestmark = pytest.mark.usefixtures("_inference")
LOGITS_ATOL = 2e-4
RUNNABLE = [pytest.param(case, id=f"{case.set_name}-{case.name}") for case in cases() if case.can_run]
WITH_MEDIA = [parameter for parameter in RUNNABLE if parameter.values[0].media_urls]


@pytest.fixture
def _inference():
    with torch.inference_mode():
        yield


def assert_matches(case: Case, logits: torch.Tensor) -> None:
    expected = case.logprobs()
    known = expected.isfinite()
    assert known.sum(-1).min() >= 64
    found = logits.double().log_softmax(-1)
    torch.testing.assert_close(found[known], expected[known], atol=LOGITS_ATOL, rtol=0)
    assert logits.argmax(-1).tolist() == case.greedy_ids


@pytest.mark.parametrize("case", RUNNABLE)
def test_logits_and_greedy_ids_equal_the_reference(case):
    assert_matches(case, run_packed([case])[0])


@pytest.mark.parametrize("case", WITH_MEDIA)
def test_visual_embeddings_equal_the_reference(case):
    found = model(case.set_name).encode_tiles(case.tiles()).flatten(0, 1)
    torch.testing.assert_close(found, case.expected("visual_embeds"), atol=1e-4, rtol=0)


@pytest.mark.skipif(FULL is None, reason="needs the full golden set in GLIMPSED_GOLDENS")
@pytest.mark.parametrize("case", WITH_MEDIA)
def test_normalised_pixels_equal_the_reference_bit_for_bit(case):
    with safe_open(FULL / case.set_name / "expected.safetensors", framework="pt") as file:
        expected = file.get_tensor(f"{case.name}/pixel_values")
    found = PixelNorm(torch.device("cpu"))(case.tiles()).permute(0, 3, 1, 2)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("set_name", "name"),
    [
        ("internvl2-internlm2", "image-multiturn"),
        ("internvl2-internlm2-longrope", "above-limit"),
        ("internvl2_5-qwen2", "multi-image"),
        ("internvl2-phi3", "text-long"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_a_prompt_in_chunks_gives_the_same(set_name, name, chunk):
    case = find_case(set_name, name)
    assert_matches(case, run_packed([case], chunk)[0])


@pytest.mark.parametrize(
    ("set_name", "names"),
    [
        ("internvl2-internlm2", ("text-only", "image-other", "image-multiturn", "batch-1")),
        # Plain, crossing and stretched frequencies in one batch: dynamic NTK is a choice per token.
        ("internvl2-internlm2-longrope", ("below-limit", "crosses-during-decode", "above-limit")),
        ("internvl2_5-qwen2", ("text-only", "multi-image", "batch-0")),
        ("internvl-chat-v1-1", ("text-only", "image-other", "stops-at-eos")),
        # Short and long factors in one batch.
        ("internvl2-phi3", ("text-short", "text-long", "crosses-during-decode", "image-max6")),
    ],
)
@pytest.mark.parametrize("chunk", [5, 10_000])
def test_sequences_of_different_lengths_packed_together_give_the_same(set_name, names, chunk):
    packed = [find_case(set_name, name) for name in names]
    for case, logits in zip(packed, run_packed(packed, chunk), strict=True):
        assert_matches(case, logits)


def test_the_rows_given_to_forward_are_left_as_they_were():
    case = find_case("internvl2_5-qwen2", "text-only")
    net, attention = model(case.set_name), DenseAttention()
    hidden = net.embed_tokens(case.ids)
    before, positions = hidden.clone(), torch.arange(len(hidden))
    attention.layout = [("only", len(hidden))]
    net.forward(hidden, Step(positions, positions + 1, attention))
    assert torch.equal(hidden, before)
