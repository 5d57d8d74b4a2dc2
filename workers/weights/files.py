"""Safetensors files of one checkpoint folder: which tensors there are, and each of them when asked for.

Memory-mapped and lazy; no other weight format is read. Every error names the file, and the tensor it is about.
"""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from torch import Tensor

from workers.models.base import ModelError
from workers.models.config import read_config

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_UNSAFE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


class CheckpointFiles:
    """The tensors of a folder with `model.safetensors` or shards under an index. Close it when the model is built."""

    def __init__(self, folder: Path) -> None:
        """Opens every shard's header. Raises ModelError when one is missing, damaged or at odds with the index."""
        self._folder = folder
        self._shards: dict[str, Any] = {}
        self._shard_of: dict[str, str] = {}
        try:
            for shard in _shard_names(folder):
                self._open(shard)
            self._check_index()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._shard_of)

    def shard_of(self, name: str) -> str:
        """The file that holds the tensor `name`."""
        return self._shard_of[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, from the header alone."""
        return tuple(self._shards[self._shard_of[name]].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """The tensor in host memory, a view of the mapped file. Raises ModelError when the file is damaged."""
        shard = self._shard_of[name]
        try:
            tensor: Tensor = self._shards[shard].get_tensor(name)
        except SafetensorError as error:
            raise ModelError(f"{self._folder / shard}: tensor {name} cannot be read ({error})") from error
        return tensor

    def close(self) -> None:
        """Unmap the files; tensors read before must have been copied."""
        self._shards.clear()

    def _open(self, shard: str) -> None:
        path = self._folder / shard
        try:
            handle: Any = safe_open(path, framework="pt", device="cpu")
            names: list[str] = list(handle.keys())
        except FileNotFoundError as error:
            raise ModelError(f"{path}: missing, though the checkpoint needs it") from error
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: damaged or cut off ({error})") from error
        self._shards[shard] = handle
        for name in names:
            if name in self._shard_of:
                raise ModelError(f"{path}: tensor {name} is also in {self._shard_of[name]}")
            self._shard_of[name] = shard

    def _check_index(self) -> None:
        if _INDEX not in {path.name for path in self._folder.glob(_INDEX)} or _SINGLE in self._shards:
            return
        for name, shard in _weight_map(self._folder).items():
            if self._shard_of.get(name) != shard:
                raise ModelError(f"{self._folder / shard}: tensor {name} is missing, though {_INDEX} lists it here")


def _shard_names(folder: Path) -> list[str]:
    if (folder / _SINGLE).is_file():
        return [_SINGLE]
    if (folder / _INDEX).is_file():
        return sorted(set(_weight_map(folder).values()))
    unsafe = sorted(path.name for path in folder.glob("*") if path.suffix in _UNSAFE_SUFFIXES)
    if unsafe:
        raise ModelError(f"{folder}: only safetensors weights are loaded, and this folder has {unsafe[0]} instead")
    raise ModelError(f"{folder}: neither {_SINGLE} nor {_INDEX} is there")


def _weight_map(folder: Path) -> dict[str, str]:
    """Tensor -> file of the index; file names are plain names inside the folder."""
    weight_map = read_config(folder, _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{folder / _INDEX}: weight_map must be an object that is not empty")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ModelError(
                f"{folder / _INDEX}: {name} lies in {json.dumps(shard)}, which is not a safetensors file name"
            )
    return weight_map
