"""The sampler: greedy, filters, penalties, seeded draws, logprobs."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from workers.engine.sampler import NonFiniteLogits, Row, sample
from workers.engine.sampling import Sampling, choice_seed, uniform
from workers.grammar.masks import TokenMasks


def row(outputs: list[int] | None = None, **sampling: object) -> Row:
    return Row(Sampling(**sampling), outputs or [])


def test_temperature_zero_takes_the_most_likely_token():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 1.0, 2.0]])
    assert [c.token_id for c in sample(logits, [row(temperature=0.0), row(temperature=0.0)])] == [1, 0]


def test_a_row_draws_the_same_token_alone_and_in_any_batch():
    torch.manual_seed(0)
    logits = torch.randn(6, 50)
    rows = [row([1] * i, seed=i, temperature=0.7 + i / 10, top_p=1 - i / 10, top_k=i * 7) for i in range(6)]
    together = [c.token_id for c in sample(logits, rows)]
    alone = [sample(logits[i : i + 1], [rows[i]])[0].token_id for i in range(6)]
    reverse = [c.token_id for c in sample(logits.flip(0), rows[::-1])][::-1]
    assert together == alone == reverse


def test_draws_follow_the_distribution():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]])).expand(4000, 3)
    counts = Counter(c.token_id for c in sample(logits, [row(seed=i) for i in range(4000)]))
    for token_id, share in enumerate([0.5, 0.3, 0.2]):
        assert abs(counts[token_id] / 4000 - share) < 0.03


@pytest.mark.parametrize(
    ("filters", "allowed"),
    [
        ({"top_k": 1}, {0}),
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.4}, {0}),
        ({"top_p": 0.51}, {0, 1}),
        ({"min_p": 0.5}, {0, 1}),
        ({"top_k": 3, "top_p": 0.6}, {0, 1}),  # of 0.95: top-p counts what top-k left
        ({"top_p": 1e-9}, {0}),
    ],
)
def test_filters_keep_exactly_their_tokens(filters, allowed):
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).expand(600, 4)
    drawn = {c.token_id for c in sample(logits, [row(seed=i, **filters) for i in range(600)])}
    assert drawn == allowed


def test_a_filtered_row_beside_unfiltered_ones_keeps_its_filter():
    logits = torch.zeros(300, 8)
    rows = [row(seed=i, top_k=1) if i % 2 else row(seed=i) for i in range(300)]
    chosen = [c.token_id for c in sample(logits, rows)]
    assert set(chosen[1::2]) == {0}
    assert set(chosen[0::2]) == set(range(8))


def test_penalties_look_at_generated_tokens():
    logits = torch.tensor([[2.0, 1.9, -1.0]])
    assert sample(logits, [row([0], temperature=0.0, repetition_penalty=1.2)])[0].token_id == 1
    assert sample(logits, [row([0], temperature=0.0, presence_penalty=0.2)])[0].token_id == 1
    assert sample(logits, [row([0, 0], temperature=0.0, frequency_penalty=0.06)])[0].token_id == 1
    assert sample(logits, [row([0], temperature=0.0, frequency_penalty=0.06)])[0].token_id == 0
    assert sample(logits, [row([], temperature=0.0, repetition_penalty=1.2)])[0].token_id == 0


def test_repetition_penalty_pushes_negative_logits_down():
    logits = torch.tensor([[-1.0, -1.05]])
    assert sample(logits, [row([0], temperature=0.0, repetition_penalty=1.2)])[0].token_id == 1


def test_bias_and_min_tokens_change_the_choice_but_not_the_logprobs():
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    how = {"temperature": 0.0, "stop_token_ids": frozenset({0}), "num_logprobs": 1}
    banned = sample(logits, [row([], min_tokens=1, **how)])[0]
    assert banned.token_id == 1
    assert banned.logprobs.top_ids == (0,)
    assert sample(logits, [row([1], min_tokens=1, **how)])[0].token_id == 0
    assert sample(logits, [row([], logit_bias={2: 5.0}, **how)])[0].token_id == 2
    assert torch.equal(logits, torch.tensor([[2.0, 1.0, 0.0]]))


def test_logprobs_are_of_the_raw_distribution():
    probs = [0.5, 0.3, 0.2]
    logits = torch.log(torch.tensor([probs, probs])) + 3.0
    first, second = sample(logits, [row(temperature=0.0, num_logprobs=2), row(seed=1, temperature=2.0, num_logprobs=0)])
    assert first.logprobs.top_ids == (0, 1)
    assert first.logprobs.top == pytest.approx([math.log(0.5), math.log(0.3)], abs=1e-6)
    assert second.logprobs.chosen == pytest.approx(math.log(probs[second.token_id]), abs=1e-6)
    assert second.logprobs.top == ()


def test_not_a_number_is_an_error_not_a_token():
    logits = torch.tensor([[0.0, float("nan")]])
    with pytest.raises(NonFiniteLogits):
        sample(logits, [row(temperature=0.0)])


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1.0])
@pytest.mark.parametrize(
    "extreme",
    [
        {"repetition_penalty": 1e-300},
        {"repetition_penalty": 5e-324, "presence_penalty": 2.0},
        {"stop_token_ids": frozenset(range(4)), "min_tokens": 9},
        {"stop_token_ids": frozenset(range(4)), "min_tokens": 9, "repetition_penalty": 1e-300},
        {"logit_bias": dict.fromkeys(range(4), -100.0), "stop_token_ids": frozenset(range(4)), "min_tokens": 9},
    ],
)
def test_no_parameter_of_a_request_leaves_its_row_without_a_token(extreme, temperature):
    logits = torch.tensor([[0.5, 3.0, -1.0, 2.0], [5.0, 1.0, 2.0, 0.0]])
    rows = [row([1, 2, 1], temperature=temperature, **extreme), row(temperature=0.0)]
    choices = sample(logits, rows)
    assert 0 <= choices[0].token_id < 4 and choices[1].token_id == 0


def test_a_tiny_temperature_takes_the_most_likely_token():
    logits = torch.tensor([[0.5, 3.0, 2.9, 2.0]]).expand(50, 4)
    assert {c.token_id for c in sample(logits, [row(seed=i, temperature=1e-300) for i in range(50)])} == {1}


def test_a_ban_outweighs_every_penalty_and_bias():
    logits = torch.tensor([[0.5, 3.0, 2.0]])
    banned = row([1], repetition_penalty=1e-300, min_tokens=5, stop_token_ids=frozenset({1}), logit_bias={1: 100.0})
    assert sample(logits, [banned])[0].token_id == 2


def test_uniform_depends_on_seed_and_position_only():
    draws = [uniform(seed, position) for seed in range(40) for position in range(40)]
    assert len(set(draws)) == 1600
    assert all(0 <= u < 1 for u in draws)
    assert abs(sum(draws) / 1600 - 0.5) < 0.02
    assert uniform(2**64 - 1, 5) == uniform(-1, 5)


def test_the_first_choice_keeps_the_seed_and_others_differ():
    seeds = [choice_seed(7, index) for index in range(8)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 8


def masked(rows: dict[int, set[int]], vocabulary: int) -> TokenMasks:
    bits = np.zeros((len(rows), -(-vocabulary // 32)), dtype=np.int32)
    for at, allowed in enumerate(rows.values()):
        for token_id in allowed:
            bits[at, token_id // 32] |= np.uint32(1 << (token_id % 32)).astype(np.int32)
    return TokenMasks(list(rows), bits)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_masked_row_takes_allowed_tokens_and_the_others_are_as_without(temperature):
    torch.manual_seed(0)
    logits = torch.randn(40, 70)
    rows = [row(seed=i, temperature=temperature, top_p=0.9) for i in range(40)]
    free = [c.token_id for c in sample(logits, rows)]
    chosen = [c.token_id for c in sample(logits, rows, masked({i: {31, 32, 69} for i in range(0, 40, 2)}, 70))]
    assert set(chosen[::2]) <= {31, 32, 69} and len(set(chosen[::2])) > 1
    assert chosen[1::2] == free[1::2]


def test_a_mask_takes_the_likeliest_allowed_token_and_leaves_the_logprobs_raw():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    before = logits.clone()
    choice = sample(logits, [row(temperature=0.0, num_logprobs=2)], masked({0: {1, 2}}, 3))[0]
    assert choice.token_id == 1
    assert choice.logprobs is not None
    assert choice.logprobs.chosen == pytest.approx(math.log(0.3))
    assert choice.logprobs.top_ids == (0, 1)
    assert torch.equal(logits, before)


def test_no_bias_brings_a_forbidden_token_back_nor_does_a_ban_leave_a_masked_row_empty():
    logits = torch.zeros(1, 4)
    biased = row(temperature=0.0, logit_bias={0: 100.0, 2: -100.0}, min_tokens=5, stop_token_ids=frozenset({2}))
    assert sample(logits, [biased], masked({0: {2}}, 4))[0].token_id == 2
