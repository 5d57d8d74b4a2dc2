"""Where visual embeddings are kept between the step that made them and those that read them."""

import mmap
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.pages import MIN_BYTES, own_pages


@dataclass(frozen=True, slots=True)
class _Pages:
    """A tensor's bytes outside the heap; the system has them back as soon as this is dropped."""

    pages: mmap.mmap
    dtype: torch.dtype
    shape: torch.Size

    def tensor(self) -> Tensor:
        return torch.frombuffer(self.pages, dtype=self.dtype).view(self.shape)


class EmbeddingStore:
    """Embeddings by content key, each in memory of its own: a view would keep its whole batch alive.

    On a CPU they lie outside the heap, and not even a tensor object stays in it: what lives long between a step's
    short-lived tensors leaves holes that fit none of the next, so that a worker with 256 MiB of embeddings held another
    1,558 MiB of nothing after 20,000 pictures.
    """

    def __init__(self) -> None:
        self._kept: dict[bytes, Tensor | _Pages] = {}

    def __getitem__(self, key: bytes) -> Tensor:
        kept = self._kept[key]
        return kept.tensor() if isinstance(kept, _Pages) else kept

    def keep(self, embeddings: Mapping[bytes, Tensor]) -> None:
        """Hold copies of these [n, D] until they are dropped."""
        for key, embedding in embeddings.items():
            self._kept[key] = _in_pages(embedding) if _is_for_pages(embedding) else embedding.clone()

    def drop(self, key: bytes) -> None:
        """Let an embedding go, if it is there."""
        self._kept.pop(key, None)


def _is_for_pages(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.numel() * tensor.element_size() >= MIN_BYTES


def _in_pages(tensor: Tensor) -> _Pages:
    kept = _Pages(own_pages(tensor.numel() * tensor.element_size()), tensor.dtype, tensor.shape)
    kept.tensor().copy_(tensor)
    return kept
