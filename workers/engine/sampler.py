"""Logits to tokens: one vectorised pass over the rows of a step, each with its own parameters.

Logprobs are over the model's raw distribution, before penalties, temperature and filters. Draws come from
`uniform(seed, position)`, so a row's token does not depend on the other rows.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.sampling import Sampling, uniform
from workers.grammar.masks import TokenMasks

MIN_TEMPERATURE = 1e-4
"""Below it a draw is the most likely token; and a logit divided by much less is not finite any more."""
MOST = 1e30
"""What penalties make of a logit at most. It is finite for float32, as a penalty or ban may be all that a row is left
with: whatever a request asks for, its row has a best token."""


class NonFiniteLogits(Exception):
    """The model returned NaN or infinity for a row: the device or the weights are broken."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one row's choice depends on besides its logits: parameters and what was generated so far, which is
    token_ids[start:]."""

    sampling: Sampling
    token_ids: Sequence[int]
    start: int = 0

    @property
    def num_outputs(self) -> int:
        return len(self.token_ids) - self.start

    @property
    def output_ids(self) -> Sequence[int]:
        """A copy: only penalties need it."""
        return self.token_ids[self.start :]


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Natural log probabilities at one position: of the chosen token, and of the most likely ones in order."""

    chosen: float
    top_ids: tuple[int, ...]
    top: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """A sampled token; `logprobs` only where the row asked for them."""

    token_id: int
    logprobs: Logprobs | None


def sample(logits: Tensor, rows: Sequence[Row], masks: TokenMasks | None = None) -> list[Choice]:
    """Choose one token for each row of logits, float32 [R, V], among those that its mask allows, if it has one.
    Raises NonFiniteLogits."""
    if not bool(torch.isfinite(logits.amax(dim=-1)).all()):
        raise NonFiniteLogits(f"logits of {logits.shape[0]} rows hold values that are not finite")
    edited = _edit(logits, rows, masks)
    token_ids = edited.argmax(dim=-1)
    drawn = [i for i, row in enumerate(rows) if row.sampling.temperature > 0]
    if drawn:
        token_ids[drawn] = _draw(edited[drawn], [rows[i] for i in drawn])
    chosen = token_ids.tolist()
    logprobs = _logprobs(logits, chosen, rows)
    return [Choice(token_id, logprobs.get(i)) for i, token_id in enumerate(chosen)]


def _edit(logits: Tensor, rows: Sequence[Row], masks: TokenMasks | None) -> Tensor:
    """Apply penalties, bias, bans and masks; the input stays as it is. Penalties look at generated tokens only, as the
    InternVL reference does (it generates from embeddings and never sees prompt ids). Bans of rows with a mask are part
    of it."""
    masked = frozenset(masks.rows if masks else ())
    penalised: list[tuple[int, int, float, float]] = []
    biased: list[tuple[int, int, float]] = []
    for i, row in enumerate(rows):
        how = row.sampling
        if how.has_penalties:
            for token_id, count in Counter(row.output_ids).items():
                amount = how.frequency_penalty * count + how.presence_penalty
                penalised.append((i, token_id, how.repetition_penalty, amount))
        biased += [(i, token_id, bias) for token_id, bias in how.logit_bias.items()]
        if i not in masked:
            biased += [(i, token_id, -2 * MOST) for token_id in how.banned_ids(row.token_ids, row.start)]
    if not penalised and not biased and masks is None:
        return logits
    logits = logits.clone()
    if penalised:
        row_ids, token_ids, repetition, minus = _columns(penalised, logits)
        value = logits[row_ids, token_ids]
        value = torch.where(value > 0, value / repetition, value * repetition) - minus
        logits[row_ids, token_ids] = value.clamp(-MOST, MOST)
    if biased:
        row_ids, token_ids, bias = _columns(biased, logits)
        logits.index_put_((row_ids, token_ids), bias, accumulate=True)
    if masks is not None:
        _mask(logits, masks)
    return logits


def _mask(logits: Tensor, masks: TokenMasks) -> None:
    """Rule out, in place, what the masks of their rows do not allow."""
    row_ids = torch.tensor(masks.rows, device=logits.device)
    words = torch.from_numpy(masks.bits).to(logits.device)
    shifts = torch.arange(32, dtype=torch.int32, device=logits.device)
    is_allowed = ((words[:, :, None] >> shifts) & 1).flatten(1)[:, : logits.shape[1]].bool()
    logits[row_ids] = logits[row_ids].masked_fill(~is_allowed, float("-inf"))


def _columns(entries: Sequence[tuple[float, ...]], like: Tensor) -> list[Tensor]:
    """Tuples (row, token, values...) as index and value tensors."""
    row_ids, token_ids, *values = zip(*entries, strict=True)
    device = like.device
    indices = [torch.tensor(x, dtype=torch.int64, device=device) for x in (row_ids, token_ids)]
    return indices + [torch.tensor(x, dtype=like.dtype, device=device) for x in values]


def _draw(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Random choices by inverse CDF: temperature, then top-k, then top-p and min-p over what is left."""

    def column(values: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=logits.device)[:, None]

    params = [row.sampling for row in rows]
    draws = column([uniform(p.seed, row.num_outputs) for p, row in zip(params, rows, strict=True)])
    temperature = column([max(p.temperature, MIN_TEMPERATURE) for p in params], torch.float32)
    # float64: a float32 running sum over a large vocabulary loses the small probabilities.
    probs = torch.softmax(logits / temperature, dim=-1).double()
    if any(p.top_k or p.top_p < 1.0 or p.min_p for p in params):
        probs = _filter(
            probs,
            column([p.top_k or logits.shape[1] for p in params]),
            column([p.top_p for p in params]),
            column([p.min_p for p in params]),
        )
    return _invert(probs, draws)[:, 0]


def _filter(probs: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Set to 0 what a row's filters exclude; the order stays that of the vocabulary, so that a row without filters
    draws the same token whether or not its neighbours have some."""
    ranked, order = probs.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(probs.shape[1], device=probs.device)
    ranked = torch.where(rank < top_k, ranked, 0.0)
    before = ranked.cumsum(-1) - ranked
    # top_p 1 keeps all: rounding of the running sum must not cost a row without that filter its tail.
    is_nucleus = (before < top_p * ranked.sum(-1, keepdim=True)) | (top_p >= 1.0)
    is_kept = (is_nucleus & (ranked >= min_p * ranked[:, :1]) & (rank < top_k)) | (rank == 0)
    return torch.where(torch.zeros_like(is_kept).scatter(1, order, is_kept), probs, 0.0)


def _invert(weights: Tensor, draws: Tensor) -> Tensor:
    """The index of the first entry at which the running sum exceeds draw * total. [R, V], [R, 1] -> [R, 1]"""
    total = weights.cumsum(-1)
    found = torch.searchsorted(total, draws * total[:, -1:], right=True)
    return found.clamp_(max=weights.shape[1] - 1)


def _logprobs(logits: Tensor, chosen: Sequence[int], rows: Sequence[Row]) -> dict[int, Logprobs]:
    """Logprobs by row index, for the rows that want them."""
    wanted = {i: row.sampling.num_logprobs for i, row in enumerate(rows) if row.sampling.num_logprobs is not None}
    if not wanted:
        return {}
    picked = list(wanted)
    values = torch.log_softmax(logits[picked].float(), dim=-1)
    own = values.gather(1, torch.tensor([[chosen[i]] for i in picked], device=values.device))[:, 0].tolist()
    width = min(max(wanted.values()), logits.shape[1])
    top, top_ids = values.topk(width, dim=-1)
    return {
        i: Logprobs(own[j], tuple(ids[: wanted[i]]), tuple(best[: wanted[i]]))
        for j, (i, ids, best) in enumerate(zip(picked, top_ids.tolist(), top.tolist(), strict=True))
    }
