import pytest
import torch

from workers.models.base import ModelError
from workers.weights.rules import split_interleaved_qkv

KV_HEADS, GROUP, HEAD_DIM, HIDDEN = 2, 3, 4, 5


def interleaved(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """wqkv as InternLM2 stores it, row by row: slot G of a group is its key head, slot G + 1 its value head."""
    out = torch.empty((KV_HEADS * (GROUP + 2) * HEAD_DIM, *q.shape[2:]))
    for d in range(HEAD_DIM):
        for h in range(KV_HEADS * GROUP):
            out[((h // GROUP) * (GROUP + 2) + h % GROUP) * HEAD_DIM + d] = q[h, d]
        for j in range(KV_HEADS):
            out[(j * (GROUP + 2) + GROUP) * HEAD_DIM + d] = k[j, d]
            out[(j * (GROUP + 2) + GROUP + 1) * HEAD_DIM + d] = v[j, d]
    return out


@pytest.mark.parametrize("trailing", [(HIDDEN,), ()], ids=["weight", "bias"])
def test_interleaved_rows_become_q_then_k_then_v(trailing):
    q = torch.randn(KV_HEADS * GROUP, HEAD_DIM, *trailing)
    k, v = (torch.randn(KV_HEADS, HEAD_DIM, *trailing) for _ in "kv")
    found = split_interleaved_qkv(interleaved(q, k, v), KV_HEADS, HEAD_DIM)
    assert torch.equal(found, torch.cat([x.flatten(0, 1) for x in (q, k, v)]))


def test_rows_that_do_not_group_are_refused():
    with pytest.raises(ModelError, match="whole groups"):
        split_interleaved_qkv(torch.zeros(41, HIDDEN), KV_HEADS, HEAD_DIM)
