"""Log probabilities of prompts: those of one pass over the whole prompt, whatever is chunked, cached or preempted."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.e2e.goldens import LEAN
from tests.workers.models import engine_run
from tests.workers.models.dense_attention import DenseAttention
from tests.workers.models.goldens import Case, cases, find_case
from tests.workers.models.goldens import model as golden_model
from workers.attention.base import Step
from workers.backends.open import build_engine
from workers.backends.sizing import EngineLimits
from workers.engine.engine import Engine
from workers.engine.prompt_logprobs import MAX_ROWS, score_tokens
from workers.engine.sampling import Sampling
from workers.engine.sequence import Sequence
from workers.models.base import VisionLanguageModel

LIMITS = EngineLimits(
    max_model_len=256,
    num_blocks=60,
    block_size=4,
    max_num_seqs=4,
    max_num_batched_tokens=16,
    max_encode_tokens=16,
    encoder_cache_bytes=1 << 20,
)
SET = "internvl2_5-qwen2"
PROMPT = np.random.default_rng(1).integers(300, size=41).tolist()
NUM_TOP = 20
TOLERANCE = 1e-3
PLAIN_ROPE = [
    "internvl2_5-qwen2", "internvl2-qwen2", "internvl-chat-v1-1", "internvl-chat-v1-2", "internvl-chat-v1-5-int8",
    "mono-internvl", "pvc",
]  # fmt: skip
"""Sets in which a token's rotation does not depend on how long the prompt is, so that an answer in the prompt is as
likely as one behind it."""
RUNNABLE = [pytest.param(case, id=f"{case.set_name}-{case.name}") for case in cases(PLAIN_ROPE) if case.can_run]


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return golden_model(SET)


def scoring(name: str, prompt: list[int], new: int = 1) -> Sequence:
    return Sequence(
        request_id=name,
        token_ids=list(prompt),
        num_prompt_tokens=len(prompt),
        max_total_tokens=len(prompt) + new,
        sampling=Sampling(temperature=0.0),
        num_prompt_logprobs=NUM_TOP,
    )


def plain(name: str, prompt: list[int], new: int = 1) -> Sequence:
    return dataclasses.replace(scoring(name, prompt, new), num_prompt_logprobs=None)


def told_answer(case: Case) -> Sequence:
    """A case's prompt with the answer as a part of it."""
    seq = engine_run.sequence(case, num_known=len(case.greedy_ids))
    return dataclasses.replace(
        seq,
        num_prompt_tokens=seq.num_tokens,
        max_total_tokens=seq.num_tokens + 1,
        num_prompt_logprobs=NUM_TOP,
    )


def run(engine: Engine, *sequences: Sequence) -> None:
    for seq in sequences:
        engine.add(seq)
    while engine.scheduler.has_work:
        engine.step()
        engine.block_manager.check()
    assert engine.block_manager.usage == 0


def transformers_logprobs(prompt: list[int]) -> torch.Tensor:
    """float64 [tokens, vocabulary], by transformers' own implementation of the checkpoint's language model."""
    folder = LEAN / SET / "checkpoint"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["llm_config"]
    reference = Qwen2ForCausalLM(Qwen2Config(**config)).eval()
    prefix = "language_model."
    tensors = load_file(folder / "model.safetensors")
    reference.load_state_dict(
        {name.removeprefix(prefix): one.float() for name, one in tensors.items() if name.startswith(prefix)}
    )
    with torch.inference_mode():
        logits = reference(torch.tensor([prompt])).logits[0]
    return logits.double().log_softmax(-1)


def dense_logprobs(prompt: list[int]) -> torch.Tensor:
    """The same by our model in one pass with plain attention."""
    net, attention = golden_model(SET), DenseAttention()
    positions = torch.arange(len(prompt))
    attention.layout = [("only", len(prompt))]
    with torch.inference_mode():
        hidden = net.forward(net.embed_tokens(torch.tensor(prompt)), Step(positions, positions + 1, attention))
        return net.compute_logits(hidden).double().log_softmax(-1)


@pytest.fixture(scope="module")
def reference() -> torch.Tensor:
    return transformers_logprobs(PROMPT)


def assert_scored(seq: Sequence, reference: torch.Tensor, first: int = 1) -> None:
    """Each token of the prompt from `first` on is told as the row before it in `reference` has it."""
    assert sorted(seq.prompt_logprobs) == list(range(1, seq.num_prompt_tokens))
    for position in range(first, seq.num_prompt_tokens):
        row, found, token_id = reference[position - first], seq.prompt_logprobs[position], seq.token_ids[position]
        expected = row.topk(NUM_TOP).values
        torch.testing.assert_close(torch.tensor(found.top).double(), expected, atol=TOLERANCE, rtol=0)
        own = row[list(found.top_ids)]
        torch.testing.assert_close(torch.tensor(found.top).double(), own, atol=TOLERANCE, rtol=0)
        if row[token_id].isfinite():  # the lean goldens know the likeliest only
            assert found.logprob == pytest.approx(row[token_id].item(), abs=TOLERANCE)
        if found.rank <= NUM_TOP:
            assert (found.top_ids[found.rank - 1], found.top[found.rank - 1]) == (token_id, found.logprob)
        else:
            assert found.logprob <= found.top[-1]


@pytest.mark.parametrize("enable_prefix_cache", [True, False])
@pytest.mark.parametrize("budget", [4, 16, 1000])
def test_a_prompt_is_scored_as_transformers_does_alone_and_in_a_batch(
    model: VisionLanguageModel, reference: torch.Tensor, budget: int, enable_prefix_cache: bool
) -> None:
    limits = dataclasses.replace(LIMITS, max_num_batched_tokens=budget)
    alone = scoring("alone", PROMPT)
    run(build_engine(model, limits, enable_prefix_cache), alone)
    assert_scored(alone, reference)
    engine = build_engine(model, limits, enable_prefix_cache)
    first, last = scoring("first", PROMPT, 3), scoring("last", PROMPT)
    run(engine, plain("before", PROMPT[::-1], 20), first, plain("between", PROMPT[5:], 20), last)
    assert_scored(first, reference)
    assert_scored(last, reference)


def test_the_references_agree(reference: torch.Tensor) -> None:
    torch.testing.assert_close(dense_logprobs(PROMPT), reference, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", RUNNABLE)
def test_the_authors_answers_are_as_likely_in_a_prompt_as_they_say(case: Case) -> None:
    seq = told_answer(case)
    run(engine_run.engine(case.set_name, budget=16), seq)
    assert_scored_behind(seq, case)


def test_the_authors_answers_are_as_likely_in_a_batch() -> None:
    together = [find_case(SET, name) for name in ("text-only", "multi-image", "batch-0", "batch-1")]
    sequences = [told_answer(case) for case in together]
    run(engine_run.engine(SET, budget=16), *sequences, engine_run.sequence(find_case(SET, "image-multiturn")))
    for seq, case in zip(sequences, together, strict=True):
        assert_scored_behind(seq, case)


def assert_scored_behind(seq: Sequence, case: Case) -> None:
    assert len(seq.prompt_logprobs) == seq.num_prompt_tokens - 1
    assert_scored(seq, case.logprobs(), first=len(case.raw["input_ids"]))


def test_what_is_cached_is_computed_again_and_is_found_by_others_afterwards(
    model: VisionLanguageModel, reference: torch.Tensor
) -> None:
    engine = build_engine(model, LIMITS, enable_prefix_cache=True)
    run(engine, plain("before", PROMPT))
    scored, after = scoring("scored", PROMPT), plain("after", PROMPT)
    run(engine, scored)
    run(engine, after)
    assert_scored(scored, reference)
    assert (scored.num_cached_tokens, after.num_cached_tokens, after.prompt_logprobs) == (0, 40, {})


def test_a_prompt_that_is_preempted_is_scored_all_the_same(model: VisionLanguageModel, reference: torch.Tensor) -> None:
    engine = build_engine(model, dataclasses.replace(LIMITS, num_blocks=24), enable_prefix_cache=True)
    scored = [scoring(f"scored{at}", PROMPT, 25) for at in range(2)]
    run(engine, *scored, plain("other", PROMPT[::-1], 25))
    assert engine.counters.preemptions > 0
    for seq in scored:
        assert_scored(seq, reference)


def test_a_prompt_that_makes_way_half_scored_is_scored_all_the_same(
    model: VisionLanguageModel, reference: torch.Tensor
) -> None:
    engine = build_engine(model, dataclasses.replace(LIMITS, num_blocks=14), enable_prefix_cache=True)
    seq, urgent = scoring("scored", PROMPT), plain("urgent", PROMPT[::-1], 5)
    engine.add(seq)
    engine.step()
    assert list(seq.prompt_logprobs) == list(range(1, 17))
    urgent.priority = -1
    run(engine, urgent)
    assert engine.counters.preemptions == 1
    assert_scored(seq, reference)


def test_few_logits_are_there_at_a_time() -> None:
    sizes = []

    def compute_logits(hidden: torch.Tensor) -> torch.Tensor:
        sizes.append(len(hidden))
        return hidden

    hidden = torch.log(torch.tensor([[0.5, 0.3, 0.2]])).repeat(MAX_ROWS * 2 + 5, 1)
    scored = list(score_tokens(hidden, [1] * len(hidden), 2, compute_logits))
    assert sizes == [MAX_ROWS, MAX_ROWS, 5] and len(scored) == len(hidden)
    assert {(one.rank, one.top_ids) for one in scored} == {(2, (0, 1))}
    assert scored[-1].logprob == pytest.approx(np.log(0.3))


def test_no_alternatives_may_be_asked_for() -> None:
    scored = next(score_tokens(torch.zeros(1, 4), [2], 0, lambda hidden: hidden))
    assert (scored.top_ids, scored.top, scored.rank) == ((), (), 1)
    assert scored.logprob == pytest.approx(np.log(0.25))
