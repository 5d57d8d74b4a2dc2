"""A model as an operator names it -> a folder on this machine. The only place that may ask a model hub."""

import re
from importlib.resources import files
from pathlib import Path

from workers.models.base import ModelError

DEMO = "demo"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_WANTED = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja"]


def resolve_checkpoint(spec: str) -> Path:
    """`demo` (the built-in model), a folder, or a hub name that is downloaded: weights and plain data, never code.

    Raises ModelError.
    """
    if spec == DEMO:
        return Path(str(files("workers.demo"))) / "checkpoint"
    folder = Path(spec).expanduser()
    if folder.is_dir():
        return folder
    if not _HUB_NAME.fullmatch(spec):
        raise ModelError(f"{spec}: no such folder, and not a hub name of the form OWNER/NAME")
    return _download(spec)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(f"{name}: no such folder, and it could not be downloaded ({type(error).__name__})") from error
