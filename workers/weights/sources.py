"""Where a model's tensors come from while it is built: a checkpoint, a random generator, or nowhere (sizes only)."""

import math
import re
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from workers.models.base import ModelError
from workers.weights.files import CheckpointFiles
from workers.weights.rules import Rules

_LAYER_NUMBER = re.compile(r"\.(\d+)\.")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


class CheckpointSource:
    """Tensors of a checkpoint, each read when the model asks for it and copied straight to its place."""

    def __init__(self, files: CheckpointFiles, rules: Rules, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype
        self._files = files
        self._rules = rules
        self._unused = {name for name in files.names if not self._is_ignored(name)}

    def take(self, name: str, shape: Sequence[int], parts: Sequence[int] = ()) -> Tensor:
        """See `WeightSource`. A tensor stored with other dimensions of equal row size (a convolution) is flattened."""
        published, heights = _stored_as(self._rules, name, shape, parts)
        out = torch.empty(tuple(shape), dtype=self.dtype, device=self.device)
        for other, block in zip(published, torch.split(out, heights), strict=True):
            self._check(other, block.shape)
            tensor = self._merge(other, self._read(other)).reshape(block.shape)
            reorder = self._rules.reorder.get(_split_layer_number(name)[0])
            block.copy_(reorder(tensor) if reorder else tensor)
        return out

    def num_rows(self, name: str, default: int) -> int:
        """See `WeightSource`."""
        published, _ = _stored_as(self._rules, name, (default,), ())
        if not self._has(published):  # `take` will say so
            return default
        return sum(self._files.shape(other)[0] for other in published)

    def finish(self) -> None:
        """Raises ModelError when the checkpoint holds tensors that the model never asked for."""
        if self._unused:
            first = min(self._unused)
            more = f" and {len(self._unused) - 1} more" if len(self._unused) > 1 else ""
            raise ModelError(f"{self._files.shard_of(first)}: unexpected tensor {first}{more}")

    def _is_ignored(self, name: str) -> bool:
        return name.startswith(self._rules.ignored) or name.endswith(self._rules.ignored_suffixes)

    def _check(self, name: str, expected: Sequence[int]) -> None:
        if name not in self._files.names:
            raise ModelError(f"tensor {name} is missing from the checkpoint")
        found = self._files.shape(name)
        if not fits(found, expected):
            raise ModelError(
                f"{self._files.shard_of(name)}: tensor {name} has shape {list(found)}, expected {list(expected)}"
            )

    def _has(self, names: Sequence[str]) -> bool:
        return all(name in self._files.names for name in names)

    def _merge(self, name: str, weight: Tensor) -> Tensor:
        """The weight with its adapter, where the checkpoint keeps adapters apart."""
        lora = self._rules.lora
        names = lora.adapter_names(name) if lora else None
        if lora is None or names is None:
            return weight
        if not self._has(names):
            raise ModelError(f"tensor {names[0]} or {names[1]} is missing from the checkpoint")
        return lora.merge(name, weight, {other: self._read(other) for other in names})

    def _read(self, name: str) -> Tensor:
        self._unused.discard(name)
        tensor = self._files.read(name)
        if tensor.dtype == torch.int8:
            return self._dequantise(name, tensor)
        if tensor.dtype not in _FLOATS:
            raise ModelError(f"{self._files.shard_of(name)}: tensor {name} has unsupported type {tensor.dtype}")
        return tensor

    def _dequantise(self, name: str, tensor: Tensor) -> Tensor:
        """bitsandbytes' LLM.int8 layout: W = weight * SCB / 127, SCB the largest magnitude of each row."""
        layer = name.removesuffix(".weight")
        scales, layout = f"{layer}.SCB", f"{layer}.weight_format"
        self._check(scales, tensor.shape[:1])
        self._unused -= {scales, layout}
        if layout in self._files.names and int(self._files.read(layout)) != 0:
            raise ModelError(f"{self._files.shard_of(layout)}: tensor {layout} names a layout other than rows")
        return tensor.float() * (self._files.read(scales).float() / 127)[:, None]


class DummySource:
    """Seeded random tensors of a scale that keeps activations finite; equal for equal names on every machine."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype

    def take(self, name: str, shape: Sequence[int], parts: Sequence[int] = ()) -> Tensor:
        """Matrices with deviation fan_in ** -0.5; biases zero; norms and scales one."""
        if len(shape) == 1:
            fill = 0.0 if name.endswith(".bias") else 1.0
            return torch.full(tuple(shape), fill, dtype=self.dtype, device=self.device)
        generator = torch.Generator(self.device).manual_seed(zlib.crc32(name.encode()))
        tensor = torch.empty(tuple(shape), dtype=self.dtype, device=self.device)
        return tensor.normal_(0.0, shape[-1] ** -0.5, generator=generator)

    def num_rows(self, name: str, default: int) -> int:
        """There is no checkpoint to ask."""
        return default


class MetaSource:
    """Tensors without storage, counted."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.device = torch.device("meta")
        self.dtype = dtype
        self.num_parameters = 0

    def take(self, name: str, shape: Sequence[int], parts: Sequence[int] = ()) -> Tensor:
        """An empty tensor on the meta device."""
        self.num_parameters += math.prod(shape)
        return torch.empty(tuple(shape), dtype=self.dtype, device=self.device)

    def num_rows(self, name: str, default: int) -> int:
        """There is no checkpoint to ask."""
        return default


class ListingSource(MetaSource):
    """Tensors without storage, listed by the names and shapes under which a checkpoint has them."""

    def __init__(self, rules: Rules, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._rules = rules

    def take(self, name: str, shape: Sequence[int], parts: Sequence[int] = ()) -> Tensor:
        """An empty tensor on the meta device."""
        published, heights = _stored_as(self._rules, name, shape, parts)
        self.shapes.update({other: (rows, *shape[1:]) for other, rows in zip(published, heights, strict=True)})
        return super().take(name, shape, parts)


def fits(found: Sequence[int], expected: Sequence[int]) -> bool:
    """Whether a stored shape is the expected one, or differs only in how it divides a row (a convolution's)."""
    return tuple(found)[:1] == tuple(expected)[:1] and math.prod(found) == math.prod(expected)


def _stored_as(rules: Rules, name: str, shape: Sequence[int], parts: Sequence[int]) -> tuple[list[str], list[int]]:
    """The published tensors whose rows make up ours, and how many rows each has."""
    template, number = _split_layer_number(name)
    published = [other.replace("{}", number) for other in rules.names[template]]
    return published, [shape[0]] if len(published) == 1 else list(parts)


def _split_layer_number(name: str) -> tuple[str, str]:
    """layers.12.qkv.weight -> layers.{}.qkv.weight and 12."""
    found = _LAYER_NUMBER.search(name)
    return (_LAYER_NUMBER.sub(".{}.", name, count=1), found[1]) if found else (name, "")
