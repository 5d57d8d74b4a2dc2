"""Checkpoints of models that transformers knows by itself, loaded by its own classes: safetensors only, never code."""

from pathlib import Path
from typing import Any

import torch

from workers.models.base import ModelError
from workers.models.config import Config
from workers.models.generic import GenericModel
from workers.weights.files import CheckpointFiles


def load_generic(folder: Path, device: torch.device, dtype: torch.dtype, is_dummy: bool) -> GenericModel:
    """The model of a folder in the library's layout. Raises ModelError, one line, where it cannot be loaded."""
    try:
        model = _random(folder, dtype) if is_dummy else _stored(folder, dtype)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{folder}: transformers cannot load it ({reason})") from error
    return GenericModel(model.to(device).eval().requires_grad_(False), folder)


def _stored(folder: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    CheckpointFiles(folder).close()  # says in one line what is missing or damaged
    logging.disable_progress_bar()
    loaded: Any = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(f"tensor {missing[0]} is missing from the checkpoint")
    return model


def _random(folder: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForImageTextToText.from_config(
            AutoConfig.from_pretrained(folder, local_files_only=True), dtype=dtype
        )


def shell_of_generic(config: Config, dtype: torch.dtype) -> GenericModel:
    """The model of a config without storage, on the meta device. Raises ModelError."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**config), dtype=dtype)
    except (ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        raise ModelError(f"config.json: transformers cannot read it ({' '.join(str(error).split())[:300]})") from error
    return GenericModel(model, Path())
