"""What the reference computed at each greedy step, as log probabilities.

The full set holds every logit. The lean copy keeps the likeliest tokens of each step, which is all that comparisons
look at, in a tenth of the bytes; the others read as minus infinity.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

NUM_KEPT = 64


def reference_logprobs(tensors: Mapping[str, Tensor], case: str) -> Tensor:
    """float64 [steps, vocabulary] of a case, from the tensors of a full or a lean expected.safetensors."""
    if f"{case}/step_logits" in tensors:
        return torch.log_softmax(tensors[f"{case}/step_logits"].double(), dim=-1)
    ids, kept = tensors[f"{case}/top_ids"].long(), tensors[f"{case}/top_logprobs"].double()
    unknown = torch.full((len(ids), int(tensors[f"{case}/vocab_size"])), float("-inf"), dtype=torch.float64)
    return unknown.scatter(1, ids, kept)


def shrink(tensors: Mapping[str, Tensor], case: str) -> dict[str, Tensor]:
    """The lean form of a case's step logits."""
    logprobs = reference_logprobs(tensors, case)
    kept, ids = logprobs.topk(min(NUM_KEPT, logprobs.shape[1]))
    return {
        f"{case}/top_ids": ids.to(torch.uint16),  # no tiny vocabulary is larger
        f"{case}/top_logprobs": kept.float(),
        f"{case}/vocab_size": torch.tensor(logprobs.shape[1]),
    }
