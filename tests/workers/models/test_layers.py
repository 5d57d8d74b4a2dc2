import numpy as np
import pytest
import torch
import torch.nn.functional as F

from workers.models.layers import IMAGENET_MEAN, IMAGENET_STD, LayerNorm, PixelNorm, RMSNorm, pixel_shuffle


def test_every_pixel_value_is_normalised_bit_for_bit():
    levels = np.arange(256, dtype=np.uint8)
    pixels = torch.from_numpy(np.stack([levels] * 3, axis=-1))
    mean, std = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
    expected = (pixels.numpy().astype(np.float32) / np.float32(255) - mean) / std
    assert np.array_equal(PixelNorm(torch.device("cpu"))(pixels).numpy(), expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)], ids=str)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_rms_norm_equals_torchs(dtype, tolerance, scale):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(5, 48, generator=generator) * scale).to(dtype)
    weight = torch.randn(48, generator=generator).to(dtype)
    found = RMSNorm(weight, 1e-5)(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, F.rms_norm(x, (48,), weight, 1e-5), atol=tolerance, rtol=tolerance)


def test_rms_norm_with_a_weight_row_for_each_head():
    x, weight = torch.randn(2, 3, 8), torch.randn(3, 8)
    found = RMSNorm(weight, 1e-6)(x)
    for head in range(3):
        torch.testing.assert_close(found[:, head], F.rms_norm(x[:, head], (8,), weight[head], 1e-6))


def test_norms_leave_their_input_as_it_was():
    x = torch.randn(2, 8)
    before = x.clone()
    RMSNorm(torch.ones(8), 1e-6)(x)
    LayerNorm(torch.ones(8), torch.zeros(8), 1e-6)(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("transposed", [False, True])
def test_pixel_shuffle_merges_blocks_in_the_published_order(transposed):
    n, grid, scale, channels = 2, 4, 2, 3
    x = torch.randn(n, grid, grid, channels)
    found = pixel_shuffle(x, scale, transposed)
    side = grid // scale
    assert found.shape == (n, side * side, channels * scale * scale)
    for a in range(side):
        for b in range(side):
            y, column = (b, a) if transposed else (a, b)
            for dy in range(scale):
                for dx in range(scale):
                    part = found[:, a * side + b, (dy * scale + dx) * channels : (dy * scale + dx + 1) * channels]
                    assert torch.equal(part, x[:, y * scale + dy, column * scale + dx])
