"""What is drawn is what the parameters define: 10^5 draws each against an independent reference; and a request's draws
are its own in any batch. All seeds are fixed, so that a test that passes once always passes."""

import numpy as np
import pytest
import torch

from tests.workers.engine.sampler_reference import chi_square, chi_square_limit, distribution, edited
from workers.engine.bad_words import BadWords
from workers.engine.sampler import Row, sample
from workers.engine.sampling import Sampling, choice_seed, uniform

NUM_DRAWS = 100_000
LOGITS = np.array([1.3, -0.4, 0.2, 2.1, -1.2, 0.9, 0.0, 1.7, -0.8, 0.5, -2.0, 1.1])
ANSWER = (3, 7, 3, 1, 4, 3, 7)

ONE_PARAMETER = [
    {},
    {"temperature": 0.5},
    {"temperature": 1.7},
    {"top_k": 1},
    {"top_k": 4},
    {"top_p": 0.35},
    {"top_p": 0.9},
    {"min_p": 0.08},
    {"min_p": 0.4},
    {"repetition_penalty": 1.6},
    {"repetition_penalty": 0.7},
    {"presence_penalty": 1.1},
    {"presence_penalty": -0.9},
    {"frequency_penalty": 0.6},
    {"frequency_penalty": -0.4},
    {"logit_bias": {3: -3.0, 4: 2.5, 8: -1.0}},
    {"min_tokens": 8, "stop_token_ids": frozenset({3, 0})},
    {"min_tokens": 7, "stop_token_ids": frozenset({3, 0})},
]
COMBINATIONS = [
    {"temperature": 0.8, "top_k": 6, "top_p": 0.85},
    {"temperature": 1.4, "top_p": 0.9, "min_p": 0.1},
    {"temperature": 0.7, "top_k": 9, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.3},
    {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": -0.2, "logit_bias": {1: 1.5, 7: -0.5}},
    {"temperature": 1.2, "top_k": 7, "frequency_penalty": 0.5, "logit_bias": {10: 4.0}, "min_tokens": 9,
     "stop_token_ids": frozenset({5})},
]  # fmt: skip


def draws(sampling: dict[str, object], logits: np.ndarray = LOGITS) -> np.ndarray:
    """How often each token came."""
    rows = [Row(Sampling(seed=seed, **sampling), ANSWER) for seed in range(NUM_DRAWS)]
    chosen = sample(torch.tensor(logits, dtype=torch.float32).expand(NUM_DRAWS, -1), rows)
    return np.bincount([choice.token_id for choice in chosen], minlength=len(logits)).astype(np.float64)


def excess(counts: np.ndarray, probs: np.ndarray) -> float:
    """By how much the statistic is above its limit; 0 or less for draws that fit."""
    degrees = int((probs > 0).sum()) - 1
    return chi_square(counts, probs) - chi_square_limit(degrees) if degrees else 0.0


@pytest.mark.parametrize("sampling", [*ONE_PARAMETER, *COMBINATIONS], ids=str)
def test_draws_follow_the_definitions(sampling: dict[str, object]) -> None:
    counts, probs = draws(sampling), distribution(LOGITS, Sampling(**sampling), ANSWER)
    assert counts[probs == 0].sum() == 0
    assert excess(counts, probs) <= 0


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        ({"temperature": 1.0}, {"temperature": 1.05}),
        ({"top_k": 4}, {"top_k": 5}),
        ({"top_p": 0.9}, {"top_p": 0.95}),
        ({"frequency_penalty": 0.6}, {"frequency_penalty": 0.65}),
        ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.25}),
    ],
    ids=str,
)
def test_so_many_draws_tell_parameters_apart_that_are_nearly_the_same(
    drawn: dict[str, object], expected: dict[str, object]
) -> None:
    assert excess(draws(drawn), distribution(LOGITS, Sampling(**expected), ANSWER)) > 0


def test_the_draws_of_one_seed_follow_the_distribution_along_an_answer_and_do_not_depend_on_each_other() -> None:
    rows = [Row(Sampling(seed=5, top_k=4), range(position)) for position in range(NUM_DRAWS)]
    chosen = [choice.token_id for choice in sample(torch.tensor(LOGITS).float().expand(NUM_DRAWS, -1), rows)]
    probs = distribution(LOGITS, Sampling(top_k=4), ())
    assert excess(np.bincount(chosen, minlength=len(LOGITS)).astype(np.float64), probs) <= 0
    pairs = np.array(chosen[0::2]) * len(LOGITS) + np.array(chosen[1::2])
    both = np.outer(probs, probs).ravel()
    assert excess(np.bincount(pairs, minlength=len(both)).astype(np.float64), both) <= 0


def test_the_choices_of_one_seed_do_not_depend_on_each_other() -> None:
    draws_of = np.array([[uniform(choice_seed(seed, index), 3) for index in (0, 1)] for seed in range(NUM_DRAWS // 2)])
    counts, _, _ = np.histogram2d(draws_of[:, 0], draws_of[:, 1], bins=8, range=[[0, 1], [0, 1]])
    assert excess(counts.ravel(), np.full(64, 1 / 64)) <= 0


def mixed_rows(count: int, vocabulary: int) -> list[Row]:
    """Requests that have nothing in common."""
    random = np.random.default_rng(7)
    rows = []
    for seed in range(count):
        ids = random.integers(vocabulary, size=8).tolist()
        wanted = {
            "temperature": float(random.choice([0.0, 0.4, 1.0, 1.8])),
            "top_k": int(random.choice([0, 1, 20])),
            "top_p": float(random.choice([0.3, 0.9, 1.0])),
            "min_p": float(random.choice([0.0, 0.1])),
            "repetition_penalty": float(random.choice([1.0, 1.4])),
            "presence_penalty": float(random.choice([0.0, 0.8])),
            "frequency_penalty": float(random.choice([0.0, -0.5])),
            "logit_bias": {ids[0]: 3.0} if seed % 3 == 0 else {},
            "bad_words": BadWords([(ids[1],), (ids[2], ids[3])]) if seed % 4 == 0 else None,
            "min_tokens": int(random.integers(20)),
            "stop_token_ids": frozenset(ids[4:6]),
            "num_logprobs": [None, 0, 5][seed % 3],
        }
        answer = random.integers(vocabulary, size=int(random.integers(15))).tolist()
        rows.append(Row(Sampling(seed=seed, **wanted), [*ids, *answer, ids[2]], len(ids)))
    return rows


def test_each_request_of_a_mixed_batch_is_answered_as_alone() -> None:
    rows = mixed_rows(300, 100)
    logits = torch.randn(300, 100, generator=torch.Generator().manual_seed(3)) * 2
    before = logits.clone()
    together = sample(logits, rows)
    assert together == [sample(logits[i : i + 1], [row])[0] for i, row in enumerate(rows)]
    assert torch.equal(logits, before)
    for row, choice, values in zip(rows, together, logits.double().numpy(), strict=True):
        if row.sampling.temperature == 0 and row.sampling.bad_words is None:
            assert choice.token_id == int(edited(values, row.sampling, row.output_ids).argmax())
