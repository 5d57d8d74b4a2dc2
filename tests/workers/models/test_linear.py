"""The packed path and the plain one, held together."""

import weakref

import pytest
import torch
import torch.nn.functional as F

from workers.models.linear import MAX_EXACT_ROWS, MIN_PACKED_ELEMENTS, Linear, can_pack, padded_rows, take_linear
from workers.weights.sources import DummySource, MetaSource

OUT, IN = 320, 256
packable = pytest.mark.skipif(not can_pack(torch.float32), reason="this build of torch has no oneDNN linear")


def tensors(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(OUT, IN, generator=generator) * IN**-0.5
    return weight.to(dtype), torch.randn(OUT, generator=generator).to(dtype)


@packable
@pytest.mark.parametrize("shape", [(1, IN), (16, IN), (90, IN), (3, 5, IN), (0, IN)], ids=str)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)], ids=str)
def test_packed_equals_plain(shape, has_bias, dtype, tolerance):
    if not can_pack(dtype):
        pytest.skip("not on this processor")
    weight, bias = tensors(dtype)
    layer = Linear(weight, bias if has_bias else None)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    plain = F.linear(x, weight, bias if has_bias else None)
    assert layer.is_packed
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), plain, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(layer.gelu(x), F.gelu(plain), atol=tolerance, rtol=tolerance)


@packable
def test_packed_takes_strided_rows():
    weight, bias = tensors(torch.float32)
    wide = torch.randn(4, 2 * IN)
    x = wide[:, IN:]
    torch.testing.assert_close(Linear(weight, bias)(x), F.linear(x, weight, bias), atol=1e-4, rtol=1e-4)


@packable
def test_packing_lets_go_of_the_plain_weight():
    weight = torch.randn(OUT, IN)
    alive = weakref.ref(weight)
    layer = Linear(weight)
    del weight
    assert layer.is_packed
    assert alive() is None


def test_small_matrices_and_those_without_storage_stay_plain():
    assert not Linear(torch.randn(8, 8)).is_packed
    meta = torch.empty(OUT, IN, device="meta")
    assert meta.numel() >= MIN_PACKED_ELEMENTS
    assert Linear(meta)(torch.empty(3, IN, device="meta")).shape == (3, OUT)


def test_an_unknown_type_is_not_packed():
    assert not can_pack(torch.float64)
    weight, bias = tensors(torch.float64)
    layer = Linear(weight, bias)
    x = torch.randn(2, IN, dtype=torch.float64)
    assert not layer.is_packed
    assert torch.equal(layer(x), F.linear(x, weight, bias))
    assert torch.equal(layer.gelu(x), F.gelu(F.linear(x, weight, bias)))


def test_a_layer_takes_its_bias_only_where_it_has_one():
    source = MetaSource(torch.float32)
    take_linear(source, "qkv", (8, 4, 4), 8, bias=True)
    assert source.num_parameters == 16 * 8 + 16
    assert take_linear(DummySource(torch.device("cpu"), torch.float32), "out", (4,), 8)(torch.ones(1, 8)).shape == (
        1,
        4,
    )


def test_all_lengths_of_prompts_come_down_to_few_numbers_of_rows_which_are_little_more():
    padded = [padded_rows(count) for count in range(4097)]
    assert padded[: MAX_EXACT_ROWS + 1] == list(range(MAX_EXACT_ROWS + 1))
    assert padded == sorted(padded) and all(padded_rows(rows) == rows for rows in padded)
    assert all(0 <= rows - count <= count / 8 for count, rows in enumerate(padded))
    assert len(set(padded)) == 1 + MAX_EXACT_ROWS + 8 * 8
