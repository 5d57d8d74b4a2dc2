"""How likely a model takes the tokens of a prompt to be, from the hidden states of a step's rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_ROWS = 64
"""Rows whose logits are there at a time: a long chunk times a large vocabulary would be gigabytes."""


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A prompt's token: its natural log probability over the raw distribution, its rank (1: the most likely), and the
    most likely tokens in order."""

    logprob: float
    rank: int
    top_ids: tuple[int, ...]
    top: tuple[float, ...]


def score_tokens(
    hidden: Tensor, token_ids: Sequence[int], num_top: int, compute_logits: Callable[[Tensor], Tensor]
) -> Iterator[ScoredToken]:
    """Score token_ids[i] by the row i of hidden, [R, H], as a model's `compute_logits` sees it."""
    for first in range(0, len(token_ids), MAX_ROWS):
        some_ids = torch.tensor(token_ids[first : first + MAX_ROWS], device=hidden.device)[:, None]
        values = torch.log_softmax(compute_logits(hidden[first : first + MAX_ROWS]).float(), dim=-1)
        own = values.gather(1, some_ids)
        ranks = (values > own).sum(-1) + 1
        top, top_ids = values.topk(min(num_top, values.shape[1]), dim=-1)
        columns = (own[:, 0].tolist(), ranks.tolist(), top_ids.tolist(), top.tolist())
        for logprob, rank, ids, best in zip(*columns, strict=True):
            yield ScoredToken(logprob, rank, tuple(ids), tuple(best))
