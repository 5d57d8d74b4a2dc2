import math

import pytest
import torch

from workers.models.rope import Rope, RopeSpec

CPU = torch.device("cpu")
DYNAMIC = RopeSpec("dynamic", theta=10000.0, max_position=16, plain_length=16, factor=2.0)
LONGROPE = RopeSpec("longrope", 10000.0, 64, 16, short_factors=(1.0, 1.5), long_factors=(2.0, 8.0))


def rope(spec: RopeSpec, head_dim: int = 4) -> Rope:
    return Rope(spec, head_dim, CPU, torch.float32)


def angle(cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The rotation angles [T, head_dim / 2] that a step's cos and sin stand for."""
    half = cos.shape[-1] // 2
    return torch.atan2(sin[:, 0, half:], cos[:, 0, half:])


def turn(x: torch.Tensor, theta: float, position: int) -> torch.Tensor:
    """One head rotated pair by pair in float64: the pairs are (i, i + d/2)."""
    half = len(x) // 2
    out = x.double().clone()
    for i in range(half):
        phi = position * theta ** (-2 * i / len(x))
        out[i] = x[i] * math.cos(phi) - x[i + half] * math.sin(phi)
        out[i + half] = x[i + half] * math.cos(phi) + x[i] * math.sin(phi)
    return out


def test_rotation_equals_a_turn_of_each_pair():
    x = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([0, 5, 11])
    rotary = rope(RopeSpec("default", 500.0, 32, 32), 8)
    found = x.clone()
    rotary.rotate_(found, *rotary(positions, positions + 1))
    for token, position in enumerate(positions.tolist()):
        for head in range(2):
            expected = turn(x[token, head], 500.0, position)
            torch.testing.assert_close(found[token, head].double(), expected, atol=1e-5, rtol=0)


def test_rotation_writes_through_a_view_of_a_wider_tensor():
    rows = torch.randn(2, 5, 4)
    kept = rows[:, 3:].clone()
    rotary = rope(RopeSpec("default", 10000.0, 8, 8))
    expected = rows[:, :3].clone()
    cos, sin = rotary(torch.tensor([1, 2]), torch.tensor([2, 3]))
    rotary.rotate_(expected, cos, sin)
    rotary.rotate_(rows[:, :3], cos, sin)
    assert torch.equal(rows[:, :3], expected)
    assert torch.equal(rows[:, 3:], kept)


def test_dynamic_ntk_follows_its_formula_for_each_token():
    positions, lengths = torch.tensor([3, 3, 3, 39]), torch.tensor([4, 17, 40, 40])
    found = angle(*rope(DYNAMIC)(positions, lengths))
    for row, (position, n) in enumerate(zip(positions.tolist(), lengths.tolist(), strict=True)):
        growth = max(1.0, 2.0 * n / 16 - 1.0)
        base = 10000.0 * growth ** (4 / 2)
        expected = torch.tensor([position * base ** (-2 * i / 4) for i in range(2)])
        expected = torch.atan2(expected.sin(), expected.cos())
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=0)


def test_longrope_chooses_factors_per_token_and_scales_in_both_regimes():
    positions, lengths = torch.tensor([3, 3]), torch.tensor([16, 17])
    cos, sin = rope(LONGROPE)(positions, lengths)
    scale = math.sqrt(1 + math.log(64 / 16) / math.log(16))
    torch.testing.assert_close(cos.square() + sin.square(), torch.full_like(cos, scale**2))
    angles = angle(cos, sin)
    torch.testing.assert_close(angles[0], torch.tensor([3 / 1.0, 3 / (1.5 * 100)]))
    torch.testing.assert_close(angles[1], torch.tensor([3 / 2.0, 3 / (8.0 * 100)]))


@pytest.mark.parametrize("spec", [DYNAMIC, LONGROPE])
def test_plain_tokens_get_the_same_rotation_with_and_without_a_long_neighbour(spec):
    rotary = rope(spec)
    alone = rotary(torch.tensor([2, 15]), torch.tensor([5, 16]))
    beside = rotary(torch.tensor([2, 15, 30]), torch.tensor([5, 16, 31]))
    for table, computed in zip(alone, beside, strict=True):
        torch.testing.assert_close(computed[:2], table, atol=1e-6, rtol=0)


def test_regimes_are_zero_while_plain_then_per_length_or_one():
    default = RopeSpec("default", 10000.0, 16, 16)
    assert [default.regime(n) for n in (1, 16, 17, 900)] == [0, 0, 0, 0]
    assert [DYNAMIC.regime(n) for n in (1, 16, 17, 18)] == [0, 0, 17, 18]
    assert [LONGROPE.regime(n) for n in (1, 16, 17, 60)] == [0, 0, 1, 1]


def test_tables_take_the_models_dtype():
    cos, sin = Rope(DYNAMIC, 4, CPU, torch.bfloat16)(torch.tensor([1, 30]), torch.tensor([2, 31]))
    assert cos.dtype == sin.dtype == torch.bfloat16
