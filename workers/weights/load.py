"""A checkpoint folder -> a model, and what a model costs before anything is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from workers.models.base import ModelError, VisionLanguageModel
from workers.models.config import Config
from workers.models.registry import build_model, is_generic, read_model_config
from workers.weights.files import CheckpointFiles
from workers.weights.generic import load_generic, shell_of_generic
from workers.weights.rules import rules_for
from workers.weights.sources import CheckpointSource, DummySource, MetaSource

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
LoadFormat = Literal["auto", "dummy"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What a model takes in memory."""

    num_parameters: int
    weight_bytes: int
    kv_bytes_per_token: int


def load_model(
    folder: Path, device: torch.device, dtype: DtypeName = "auto", load_format: LoadFormat = "auto"
) -> VisionLanguageModel:
    """Build the model of a checkpoint folder, tensor by tensor: the peak is about one tensor above the model.

    `dummy` reads no weights and fills the model with seeded random weights. Raises ModelError.
    """
    config = read_model_config(folder)
    resolved = resolve_dtype(config, device, dtype)
    if is_generic(config):
        return load_generic(folder, device, resolved, load_format == "dummy")
    if load_format == "dummy":
        return build_model(config, DummySource(device, resolved))
    with CheckpointFiles(folder) as files:
        rules = rules_for(config)
        if rules.check is not None:
            rules.check(config, rules, files)
        source = CheckpointSource(files, rules, device, resolved)
        model = build_model(config, source)
        source.finish()
    return model


def measure_model(config: Config, dtype: torch.dtype) -> ModelSize:
    """Parameter count and bytes of a config's model, built on the meta device."""
    if is_generic(config):
        shell = shell_of_generic(config, dtype)
        count = sum(parameter.numel() for parameter in shell.library_model.parameters())
        return ModelSize(count, count * dtype.itemsize, shell.kv_spec.bytes_per_token(dtype))
    source = MetaSource(dtype)
    model = build_model(config, source)
    weight_bytes = source.num_parameters * dtype.itemsize
    return ModelSize(source.num_parameters, weight_bytes, model.kv_spec.bytes_per_token(dtype))


def resolve_dtype(config: Config, device: torch.device, dtype: DtypeName) -> torch.dtype:
    """`auto` is the checkpoint's own type on an accelerator and float32 on a CPU."""
    if dtype != "auto":
        return _DTYPES[dtype]
    if device.type == "cpu":
        return torch.float32
    stored = str(config.get("torch_dtype") or config.get("dtype") or "bfloat16").removeprefix("torch.")
    if stored not in _DTYPES:
        raise ModelError(f"config.json: torch_dtype {stored!r} is not one of {', '.join(_DTYPES)}")
    return _DTYPES[stored]
