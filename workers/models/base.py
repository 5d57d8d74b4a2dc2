"""What the engine asks of a model, and what a model asks of whoever holds its weights."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from workers.attention.base import Step


class ModelError(Exception):
    """A checkpoint cannot be served; the message is one line for the operator that names the file, key or tensor."""


@dataclass(frozen=True, slots=True)
class Unfolding:
    """How a lower stack sees a tile: each token of the backbone's grid is scale x scale rows, in the patches' order."""

    token_grid: int
    """Tokens along a tile's side. A row of so many cannot be divided: its patches' rows lie in two or more lines."""

    scale: int

    @property
    def parts(self) -> int:
        """Rows of the lower stack that one visual token stands for."""
        return self.scale**2


@dataclass(frozen=True, slots=True)
class KVSpec:
    """What one token costs in the K/V pool."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    sliding_window: int | None = None
    """Keys older than this many positions are not attended to; None where the window never takes effect."""
    unfolding: Unfolding | None = None
    """Set where a token takes as many slots as it has parts."""
    lower: "KVSpec | None" = None
    """The stack under the backbone, with K/V of its own for the same tokens in the same pages."""

    @property
    def slots_per_token(self) -> int:
        return self.unfolding.parts if self.unfolding else 1

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        own = 2 * self.num_layers * self.num_kv_heads * self.head_dim * dtype.itemsize * self.slots_per_token
        return own + (self.lower.bytes_per_token(dtype) if self.lower else 0)


class WeightSource(Protocol):
    """Hands out a model's tensors one by one while it is built: from files, random, or on the meta device."""

    device: torch.device
    dtype: torch.dtype

    def take(self, name: str, shape: Sequence[int], parts: Sequence[int] = ()) -> Tensor:
        """The tensor `name` (our name) on the source's device in its dtype, with exactly this shape.

        `parts` are the heights of the row blocks that `name` stacks (q, k, v for example); a checkpoint may store
        them as one tensor or one by one. Raises ModelError when a tensor is missing or of another shape.
        """
        ...

    def num_rows(self, name: str, default: int) -> int:
        """How many rows the tensor `name` has where a checkpoint alone can say; `default` where there is none."""
        ...


class VisionLanguageModel(Protocol):
    """One model on one device. T packed tokens, N tiles, R rows that sample; H hidden size, V vocabulary size."""

    device: torch.device
    dtype: torch.dtype
    kv_spec: KVSpec
    hidden_size: int
    vocab_size: int
    image_size: int
    tokens_per_tile: int
    max_position_embeddings: int
    rope_extends: bool
    """Whether sequences longer than `max_position_embeddings` are defined (dynamic NTK, longrope)."""

    def encode_tiles(self, pixels: Tensor) -> Tensor:
        """uint8 [N, image_size, image_size, 3] on the model's device -> [N, tokens_per_tile, H]; normalises inside."""
        ...

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """int64 [T] -> [T, H], a new tensor."""
        ...

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        """[T, H] -> [T, H] with the final norm applied; `hidden` is left as it was."""
        ...

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """[R, H] -> float32 [R, V]."""
        ...

    def rope_regime(self, length: int) -> int:
        """0 while a sequence of this length is rotated as a short one is; K/V may be shared within one regime only."""
        ...


@runtime_checkable
class EncodesInputs(Protocol):
    """A model whose tower takes whatever its family prepared, one medium at a time, in place of `encode_tiles`."""

    def encode_inputs(self, inputs: Any) -> Tensor:
        """One medium -> [tokens, H] on the model's device, a tensor of its own."""
        ...


@runtime_checkable
class EncodesInParts(Protocol):
    """A model whose tower can be left in the middle."""

    def encode_in_parts(self, pixels: Tensor) -> Generator[None, None, Tensor]:
        """As `encode_tiles`; yields where something else may be computed in between."""
        ...
