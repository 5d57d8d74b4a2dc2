"""PVC-InternVL2's loader: a checkpoint of any other layout stops it by name, and no plain tower takes its place."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.workers.models.goldens import LEAN
from workers.models.base import ModelError
from workers.weights.files import CheckpointFiles
from workers.weights.load import load_model
from workers.weights.pvc import UNKNOWN_LAYOUT

CPU = torch.device("cpu")
Tensors = dict[str, torch.Tensor]
SCALE = "vision_model.encoder.layers.2.temporal_ls"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(LEAN / "pvc" / "checkpoint", tmp_path / "checkpoint"))


def rewrite(folder: Path, change: Callable[[Tensors], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    path.unlink()
    save_file(tensors, path)


def configure(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(folder, CPU)
    message = str(caught.value)
    assert message.startswith("PVC-InternVL2: ") and message.endswith(UNKNOWN_LAYOUT) and "\n" not in message
    return message


def is_temporal(name: str) -> bool:
    return "temporal" in name or name.startswith("mlp1_ada")


def test_a_missing_temporal_tensor_is_named_with_its_shape(folder: Path):
    rewrite(folder, lambda tensors: tensors.pop(SCALE))
    message = refusal(folder)
    assert f"1 missing: {SCALE} [32];" in message and "unexpected" not in message


@pytest.mark.parametrize("name", ["vision_model.encoder.layers.0.temporal_ls", "mlp1.4.weight", "vision_model.extra"])
def test_an_unexpected_visual_tensor_is_named_with_its_shape(folder: Path, name: str):
    rewrite(folder, lambda tensors: tensors.update({name: torch.zeros(2, 3)}))
    assert f"1 unexpected: {name} [2, 3];" in refusal(folder)


@pytest.mark.parametrize("name", [SCALE, "vision_model.encoder.layers.0.ls1"])
def test_a_tensor_of_another_shape_is_named_with_both(folder: Path, name: str):
    rewrite(folder, lambda tensors: tensors.update({name: torch.zeros(33)}))
    assert f"1 of another shape: {name} [33] instead of [32];" in refusal(folder)


def test_other_names_for_the_temporal_parts_are_listed_on_both_sides_ten_at_most(folder: Path):
    def rename(tensors: Tensors) -> None:
        for name in [name for name in tensors if is_temporal(name)]:
            tensors[name.replace("temporal", "time").replace("mlp1_ada", "mlp1.2")] = tensors.pop(name)

    rewrite(folder, rename)
    message = refusal(folder)
    assert "24 missing: mlp1_ada.bias" in message and "24 unexpected: mlp1.2.bias" in message
    assert message.count(", ...") == 2 and message.count("layers.1.") + message.count("layers.2.") <= 20
    assert "24 temporal tensors found" in message


def test_a_plain_tower_under_the_familys_name_is_refused(folder: Path):
    def strip(tensors: Tensors) -> None:
        for name in [name for name in tensors if is_temporal(name)]:
            del tensors[name]

    rewrite(folder, strip)
    assert "; 0 temporal tensors found; " in refusal(folder)


def test_temporal_tensors_where_the_config_denies_them_are_refused(folder: Path):
    configure(folder, use_temporal=False)
    assert "24 unexpected" in refusal(folder)


def test_a_config_without_temporal_parts_loads_a_plain_tower_and_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture
):
    configure(folder, use_temporal=False)

    def strip(tensors: Tensors) -> None:
        for name in [name for name in tensors if is_temporal(name)]:
            del tensors[name]

    rewrite(folder, strip)
    with caplog.at_level(logging.WARNING):
        assert load_model(folder, CPU).tokens_per_tile == 4
    assert "without temporal modules" in caplog.text


def test_an_experimental_model_says_so_when_it_is_loaded(folder: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        load_model(folder, CPU)
    assert "experimental" in caplog.text


def test_nothing_is_read_before_the_names_are_right(folder: Path, monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []
    monkeypatch.setattr(CheckpointFiles, "read", lambda self, name: read.append(name))
    rewrite(folder, lambda tensors: tensors.pop(SCALE))
    refusal(folder)
    assert read == []


def test_without_the_key_for_the_number_of_layers_the_tensors_decide(folder: Path):
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    del vision["temporal_num_layers"]
    configure(folder, vision_config=vision)
    assert "9 missing: vision_model.encoder.layers.0.temporal_ada.bias [64]" in refusal(folder)


def test_a_text_tensor_that_is_missing_is_named_as_ever(folder: Path):
    rewrite(folder, lambda tensors: tensors.pop("language_model.output.weight"))
    with pytest.raises(ModelError, match=r"^tensor language_model\.output\.weight is missing"):
        load_model(folder, CPU)
