"""The tower by itself; the published feature checkpoints are compared where the full golden set is at hand."""

import pytest
import torch
from safetensors.torch import load_file

from tests.workers.models.goldens import FULL
from workers.models.base import ModelError
from workers.models.config import VisionSpec, parse_vision, read_config
from workers.models.internvit import VisionTower, resize_positions
from workers.weights.files import CheckpointFiles
from workers.weights.rules import INTERNVIT, Rules
from workers.weights.sources import CheckpointSource, DummySource

CPU = torch.device("cpu")
SPEC = VisionSpec(16, 32, 2, 2, 28, 14, is_rms=True, norm_eps=1e-6, qkv_bias=False, qk_norm=True)


@pytest.mark.skipif(FULL is None, reason="needs the full golden set in GLIMPSED_GOLDENS")
@pytest.mark.parametrize("name", ["internvit-6b", "internvit-300m"])
@pytest.mark.parametrize("case", ["image1", "batch", "other_resolution"])
def test_features_equal_the_reference(name, case):
    folder = FULL / name / "checkpoint"
    spec = parse_vision(read_config(folder))
    with CheckpointFiles(folder) as files:
        tower = VisionTower(spec, CheckpointSource(files, Rules(INTERNVIT), CPU, torch.float32), "")
    expected = load_file(FULL / name / "expected.safetensors")
    pixels = expected[f"{case}/pixel_values"].permute(0, 2, 3, 1).contiguous()
    torch.testing.assert_close(tower(pixels), expected[f"{case}/last_hidden_state"], atol=1e-4, rtol=0)


def test_a_tile_gives_the_same_alone_and_in_a_batch():
    tower = VisionTower(SPEC, DummySource(CPU, torch.float32), "")
    pixels = torch.randn(3, 28, 28, 3)
    together = tower(pixels)
    assert together.shape == (3, 5, 16)
    for index in range(3):
        torch.testing.assert_close(tower(pixels[index : index + 1])[0], together[index], atol=1e-5, rtol=0)


def test_positions_are_untouched_at_the_native_size_and_keep_the_class_row_elsewhere():
    table = torch.randn(1, 1 + 9, 4)
    assert resize_positions(table, 3, 3) is table
    resized = resize_positions(table, 2, 5)
    assert resized.shape == (1, 11, 4)
    assert torch.equal(resized[:, 0], table[:, 0])


def test_a_picture_that_does_not_divide_into_patches_is_refused():
    tower = VisionTower(SPEC, DummySource(CPU, torch.float32), "")
    with pytest.raises(ModelError, match="30 x 28"):
        tower(torch.zeros(1, 28, 30, 3))
