import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.workers.weights.published import PUBLISHED
from workers.models.base import ModelError
from workers.weights.load import load_model, measure_model, resolve_dtype

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GOLDENS = Path(__file__).parents[2] / "goldens"
WQKV = "language_model.model.layers.1.attention.wqkv.weight"


@pytest.fixture
def folder(tmp_path):
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(GOLDENS / "internvl2-internlm2" / "checkpoint", tmp_path / "checkpoint"))


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def edit_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def shard(folder: Path) -> None:
    """The same tensors in two files under an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def fingerprint(model) -> torch.Tensor:
    return model.encode_tiles(torch.full((1, 56, 56, 3), 90, dtype=torch.uint8))


def test_shards_give_the_same_model_as_one_file(folder):
    whole = fingerprint(load_model(folder, CPU))
    shard(folder)
    assert torch.equal(fingerprint(load_model(folder, CPU)), whole)


def test_a_missing_shard_is_named(folder):
    shard(folder)
    (folder / "model-2-of-2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-2-of-2\.safetensors: missing"):
        load_model(folder, CPU)


def test_a_tensor_that_the_index_puts_elsewhere_is_named(folder):
    shard(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    name, file = next(iter(index["weight_map"].items()))
    index["weight_map"][name] = next(other for other in index["weight_map"].values() if other != file)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=f"tensor {name} is missing"):
        load_model(folder, CPU)


@pytest.mark.parametrize("outside", ["../other.safetensors", "/etc/passwd", "weights.bin", 7])
def test_an_index_cannot_point_out_of_the_folder_or_at_other_formats(folder, outside):
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": outside}}))
    with pytest.raises(ModelError, match="not a safetensors file name"):
        load_model(folder, CPU)


def test_a_missing_tensor_is_named(folder):
    rewrite(folder, lambda tensors: tensors.pop(WQKV))
    with pytest.raises(ModelError, match=f"tensor {WQKV} is missing"):
        load_model(folder, CPU)


def test_an_unexpected_tensor_is_named_with_its_file(folder):
    rewrite(folder, lambda tensors: tensors.update({"mlp1.9.weight": torch.zeros(2)}))
    with pytest.raises(ModelError, match=r"model\.safetensors: unexpected tensor mlp1\.9\.weight"):
        load_model(folder, CPU)


def test_buffers_of_older_tools_are_ignored(folder):
    name = "language_model.model.layers.0.attention.rotary_emb.inv_freq"
    rewrite(folder, lambda tensors: tensors.update({name: torch.zeros(3)}))
    assert load_model(folder, CPU).hidden_size == 36


@pytest.mark.parametrize("shape", [(60, 35), (36, 60), (61, 36)], ids=str)
def test_a_wrong_shape_is_named_with_both_shapes(folder, shape):
    rewrite(folder, lambda tensors: tensors.update({WQKV: torch.zeros(shape)}))
    with pytest.raises(ModelError, match=rf"{WQKV} has shape \[{shape[0]}, {shape[1]}\], expected \[60, 36\]"):
        load_model(folder, CPU)


def test_a_type_that_is_no_weight_is_refused(folder):
    rewrite(folder, lambda tensors: tensors.update({WQKV: torch.zeros(60, 36, dtype=torch.int64)}))
    with pytest.raises(ModelError, match="unsupported type torch.int64"):
        load_model(folder, CPU)


@pytest.mark.parametrize("kept_bytes", [0, 4, 200, 300_000])
def test_a_cut_file_is_refused(folder, kept_bytes):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(ModelError, match=r"model\.safetensors: damaged or cut off"):
        load_model(folder, CPU)


def test_a_header_that_claims_too_much_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes((1 << 40).to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(ModelError, match="damaged or cut off"):
        load_model(folder, CPU)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.pth"])
def test_other_weight_formats_are_refused_by_name(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(ModelError, match=f"only safetensors weights are loaded, and this folder has {name}"):
        load_model(folder, CPU)


def test_a_folder_without_weights_says_what_it_lacks(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor"):
        load_model(folder, CPU)


def test_the_file_is_not_needed_once_the_model_is_loaded(folder):
    model = load_model(folder, CPU)
    before = fingerprint(model)
    (folder / "model.safetensors").write_bytes(b"")
    assert torch.equal(fingerprint(model), before)


def test_int8_rows_without_their_scales_are_named(tmp_path):
    folder = Path(shutil.copytree(GOLDENS / "internvl-chat-v1-5-int8" / "checkpoint", tmp_path / "checkpoint"))
    scales = "language_model.model.layers.0.attention.wo.SCB"
    rewrite(folder, lambda tensors: tensors.pop(scales))
    with pytest.raises(ModelError, match=f"tensor {scales} is missing"):
        load_model(folder, CPU)


def test_dummy_weights_need_no_files_and_are_the_same_everywhere(folder):
    (folder / "model.safetensors").unlink()
    first, second = (load_model(folder, CPU, load_format="dummy") for _ in range(2))
    found = fingerprint(first)
    assert torch.equal(found, fingerprint(second))
    assert found.isfinite().all()
    assert found.std() > 0.01


def test_the_asked_dtype_is_the_models(folder):
    model = load_model(folder, CPU, "bfloat16")
    assert model.dtype == torch.bfloat16
    assert fingerprint(model).dtype == torch.bfloat16
    assert model.compute_logits(torch.zeros(1, 36, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize(
    ("config", "device", "asked", "expected"),
    [
        ({"torch_dtype": "bfloat16"}, CPU, "auto", torch.float32),
        ({"torch_dtype": "bfloat16"}, CUDA, "auto", torch.bfloat16),
        ({"dtype": "float16"}, CUDA, "auto", torch.float16),
        ({"torch_dtype": "float16"}, CUDA, "float32", torch.float32),
        ({}, CUDA, "auto", torch.bfloat16),
    ],
)
def test_auto_dtype_follows_the_checkpoint_on_an_accelerator_only(config, device, asked, expected):
    assert resolve_dtype(config, device, asked) == expected


def test_a_stored_dtype_that_nothing_computes_in_is_refused():
    with pytest.raises(ModelError, match="torch_dtype 'float8_e4m3fn'"):
        resolve_dtype({"torch_dtype": "float8_e4m3fn"}, CUDA, "auto")


def test_unmerged_lora_is_refused(folder):
    edit_config(folder, use_llm_lora=16)
    with pytest.raises(ModelError, match="LoRA"):
        load_model(folder, CPU)


@pytest.mark.parametrize(
    ("name", "billions", "kv_bytes"),
    [
        ("InternVL2-1B", 0.94, 2 * 24 * 2 * 64 * 2),
        ("InternVL2-2B", 2.21, 2 * 24 * 8 * 128 * 2),
        ("InternVL2-8B", 8.08, 2 * 32 * 8 * 128 * 2),
        ("InternVL2-26B", 25.5, 2 * 48 * 8 * 128 * 2),
        ("InternVL2-40B", 40.1, 2 * 60 * 8 * 128 * 2),
        ("InternVL2_5-1B", 0.94, 2 * 24 * 2 * 64 * 2),
        ("InternVL2_5-4B", 3.71, 2 * 36 * 2 * 128 * 2),
        ("InternVL2_5-78B", 78.4, 2 * 80 * 8 * 128 * 2),
    ],
)
def test_published_sizes_come_out(name, billions, kv_bytes):
    size = measure_model(PUBLISHED[name], torch.bfloat16)
    assert size.num_parameters / 1e9 == pytest.approx(billions, rel=0.005)
    assert size.weight_bytes == 2 * size.num_parameters
    assert size.kv_bytes_per_token == kv_bytes
