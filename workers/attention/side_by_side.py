"""Keys and values of long sequences that decode, kept side by side, as well as in their pages.

To read pages is to gather them, and on a CPU that was most of a decode step: 3 of 5 ms for four contexts of 1,500 of
the demo model's tokens. What was gathered for one step is right for the next but for one token, so it is kept. They
are copies: pages stay the truth, and a copy may go at any time.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.models.base import KVSpec
from workers.pages import own_pages

MIN_LAYER_BYTES = 512 << 10
"""Of a sequence's keys and values in one layer. Less is gathered with others' sooner than attended to by itself."""
GROWTH_TOKENS = 512
"""A copy has room for so many more at most; then the pages are gathered again."""


@dataclass(slots=True, eq=False)
class Copy:
    """One sequence's. kv [layers, 2, kv_heads, capacity, d]; the first `num_kept` tokens are there."""

    kv: Tensor
    num_kept: int = 0

    @property
    def capacity(self) -> int:
        return self.kv.shape[3]


class Copies:
    """Those of the sequences of the last step, by serial number, within `max_bytes`."""

    def __init__(self, spec: KVSpec, dtype: torch.dtype, max_bytes: int) -> None:
        self._spec = spec
        self._dtype = dtype
        self._max_bytes = max_bytes
        layer_bytes = 2 * spec.num_kv_heads * spec.head_dim * dtype.itemsize
        self.min_tokens = -(-MIN_LAYER_BYTES // layer_bytes)
        self._token_bytes = spec.num_layers * layer_bytes
        self._room_bytes = max_bytes
        self._copies: dict[int, Copy] = {}
        self._earlier: dict[int, Copy] = {}

    def begin(self) -> None:
        """A new step: copies of those that are not asked for in it go."""
        self._earlier, self._copies = self._copies, {}
        self._room_bytes = self._max_bytes

    def end(self) -> None:
        """All were asked for."""
        self._earlier = {}

    def of(self, serial: int, num_tokens: int) -> Copy | None:
        """The copy for a sequence of that length; None where there is no room for one."""
        copy = self._earlier.pop(serial, None)
        if copy is None or copy.capacity < num_tokens:
            capacity = -(-(num_tokens + 1) // GROWTH_TOKENS) * GROWTH_TOKENS
            copy = self._new(capacity) if capacity * self._token_bytes <= self._room_bytes else None
        if copy is not None and copy.capacity * self._token_bytes <= self._room_bytes:
            self._room_bytes -= copy.capacity * self._token_bytes
            self._copies[serial] = copy
            return copy
        return None

    def _new(self, capacity: int) -> Copy:
        """In pages of its own: between what steps allocate and free it would leave holes."""
        shape = (self._spec.num_layers, 2, self._spec.num_kv_heads, capacity, self._spec.head_dim)
        return Copy(torch.frombuffer(own_pages(capacity * self._token_bytes), dtype=self._dtype).view(shape))
