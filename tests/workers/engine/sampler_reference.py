"""What the sampler should draw, by the definitions of the parameters: one row at a time, in float64, without a thought
for speed. Shares no code with the sampler."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workers.engine.sampling import Sampling

Floats = NDArray[np.float64]


def distribution(logits: Floats, sampling: Sampling, answer: Sequence[int]) -> Floats:
    """The probability of each token behind `answer`, for a temperature above 0."""
    scores = edited(logits, sampling, answer) / sampling.temperature
    weights = np.exp(scores - scores.max())
    probs: Floats = weights / weights.sum()
    ranking = sorted(range(len(probs)), key=lambda token_id: (-probs[token_id], token_id))
    kept = ranking[: sampling.top_k] if sampling.top_k else ranking
    kept = _nucleus(probs, kept, sampling.top_p)
    kept = [token_id for token_id in kept if probs[token_id] >= sampling.min_p * probs[ranking[0]]]
    found = np.zeros_like(probs)
    found[kept] = probs[kept]
    return found / found.sum()


def edited(logits: Floats, sampling: Sampling, answer: Sequence[int]) -> Floats:
    """Logits with penalties for what the answer has already, the bias, and what is forbidden."""
    scores = np.array(logits, dtype=np.float64)
    for token_id in set(answer):
        scale = sampling.repetition_penalty
        scores[token_id] = scores[token_id] / scale if scores[token_id] > 0 else scores[token_id] * scale
        scores[token_id] -= sampling.presence_penalty + sampling.frequency_penalty * list(answer).count(token_id)
    for token_id, bias in sampling.logit_bias.items():
        scores[token_id] += bias
    if len(answer) < sampling.min_tokens:
        scores[list(sampling.stop_token_ids)] = -math.inf
    return scores


def chi_square(counts: Floats, probs: Floats) -> float:
    """Pearson's statistic of draws that all fell on possible tokens."""
    possible = probs > 0
    expected = probs[possible] * counts.sum()
    if expected.min() < 5:
        raise ValueError("too few draws for a token that is expected fewer than 5 times")
    return float((((counts[possible] - expected) ** 2) / expected).sum())


def chi_square_limit(degrees: int, z: float = 3.09) -> float:
    """What the statistic exceeds once in 1000 times, by Wilson and Hilferty's approximation; 3.09 is the normal
    distribution's quantile for that."""
    return degrees * (1 - 2 / (9 * degrees) + z * math.sqrt(2 / (9 * degrees))) ** 3


def _nucleus(probs: Floats, ranking: Sequence[int], top_p: float) -> list[int]:
    """The fewest of the likeliest tokens that together have `top_p` of what all of these have."""
    total = sum(probs[token_id] for token_id in ranking)
    kept: list[int] = []
    mass = 0.0
    for token_id in ranking:
        if mass >= top_p * total and top_p < 1:
            break
        kept.append(token_id)
        mass += probs[token_id]
    return kept
