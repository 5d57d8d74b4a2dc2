"""Attention over a paged K/V pool with `scaled_dot_product_attention`: the CPU path, and the reference on any device.

Pages are gathered into one scratch buffer that lives as long as the pool, because a fresh buffer of that size costs
more in page faults than the copy itself. Inside the pool, all slots of one head lie side by side, so that gathered
keys are contiguous per head: on a CPU that reads about twice as fast as slots with their heads side by side.
"""

from collections.abc import Callable
from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.attention.side_by_side import Copies, Copy
from workers.engine.batch import DecodeGroup, Ints, KeyOrder, PageLayout, PrefillSlice
from workers.models.base import KVSpec

MAX_COPIED_SHARE = 2
"""Copies of keys and values take one part in so many of the pool's memory at most."""

_Read = Callable[[int, Tensor, Tensor, Tensor, Tensor], None]


class PagedSDPA:
    """The K/V pool of all layers and the attention function that reads it.

    Call `prepare` once per step, then the object itself once per layer (it is the `attend` of a `Step`).
    """

    def __init__(
        self, spec: KVSpec, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.spec = spec
        self._device = device
        # Zeros, not empty: padded rows are masked, but a masked NaN is still a NaN.
        num_rows = spec.num_kv_heads * num_blocks * block_size
        self._pool = torch.zeros(spec.num_layers, 2, num_rows, spec.head_dim, dtype=dtype, device=device)
        self._layers = [(layer[0], layer[1]) for layer in self._pool]
        self._pages = [layer.view(-1, block_size * spec.head_dim) for layer in self._pool]
        self._scratch = torch.empty(0, dtype=dtype, device=device)
        self._rows = torch.empty(0, dtype=torch.int64, device=device)
        self._num_tokens = 0
        self._copies = self._new_copies()
        self._reads: list[_Read] = []

    def over_same_pages(self) -> "PagedSDPA":
        """Another one over the same pool, for prompts in a thread of its own. The two never write the same pages."""
        other = copy(self)
        other._scratch = self._scratch.new_empty(0)
        other._copies = None
        return other

    def _new_copies(self) -> Copies | None:
        """On a CPU; elsewhere to gather costs little."""
        if self._device.type != "cpu" or self.spec.unfolding is not None:
            return None
        return Copies(self.spec, self._pool.dtype, self._pool.nbytes // MAX_COPIED_SHARE)

    def prepare(self, batch: PageLayout) -> None:
        """Take over a step's layout: where new keys go and which pages each row reads."""
        heads = torch.arange(self.spec.num_kv_heads, device=self._device)
        slots = torch.from_numpy(batch.slots).to(self._device)
        self._num_tokens = len(slots)
        self._rows = (heads * (self.num_blocks * self.block_size) + slots[:, None]).reshape(-1)
        self._reads = [self._plan_prefill(part) for part in batch.prefills]
        if self._copies is not None:
            self._copies.begin()
        for group in reversed(batch.decode_groups):  # The longest contexts first: copies gain them most.
            num_gathered = self._plan_copied(group, self._copies) if self._copies is not None else len(group.lengths)
            if 0 < num_gathered < len(group.lengths):
                group = group.first(num_gathered, self.block_size)
            if num_gathered:
                self._reads.append(self._plan_decode(group))
        if self._copies is not None:
            self._copies.end()

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write the step's keys and values, then attend. q [T, heads, d], k and v [T, kv heads, d] -> [T, heads * d]"""
        keys, values = self._layers[layer]
        num_tokens = self._num_tokens
        keys.index_copy_(0, self._rows, k[:num_tokens].reshape(-1, self.spec.head_dim))
        values.index_copy_(0, self._rows, v[:num_tokens].reshape(-1, self.spec.head_dim))
        out = torch.empty(q.shape[0], q.shape[1] * q.shape[2], dtype=q.dtype, device=q.device)
        if q.shape[0] > num_tokens:
            out[num_tokens:] = 0
        for read in self._reads:
            read(layer, q, k, v, out)
        return out

    def _gather(self, layer: int, page_rows: Tensor, num_sequences: int) -> tuple[Tensor, Tensor]:
        """Pages as keys and values [sequences, kv heads, padded length, d] (views of the scratch buffer)."""
        size = self.block_size * self.spec.head_dim
        needed = page_rows.numel() * size
        if self._scratch.numel() < needed:
            self._scratch = self._scratch.new_empty(needed)
        gathered = self._scratch[:needed].view(-1, size)
        torch.index_select(self._pages[layer], 0, page_rows, out=gathered)
        shape = (2, self.spec.num_kv_heads, num_sequences, -1, self.spec.head_dim)
        keys, values = gathered.view(shape).transpose(1, 2)
        return keys, values

    def _page_rows(self, blocks: Tensor) -> Tensor:
        """Row numbers, in the page view of a layer, of these pages for keys and values of all heads."""
        planes = torch.arange(2 * self.spec.num_kv_heads, device=self._device) * self.num_blocks
        return (planes[:, None] + blocks.reshape(1, -1)).reshape(-1)

    def _plan_copied(self, group: DecodeGroup, copies: Copies) -> int:
        """Plan the rows of a group that are read from copies, the last ones; returns how many others there are."""
        num_left = len(group.lengths)
        if group.serials is None or group.order is not None:
            return num_left
        while num_left and (length := int(group.lengths[num_left - 1])) >= copies.min_tokens:
            kept = copies.of(int(group.serials[num_left - 1]), length)
            if kept is None:
                break
            num_left -= 1
            self._reads.append(self._plan_row(group.start + num_left, length, group.blocks[num_left], kept))
        return num_left

    def _plan_row(self, row: int, length: int, blocks: Ints, kept: Copy) -> _Read:
        """One sequence's only query, beside its copy."""
        num_blocks = -(-length // self.block_size)
        first = max(0, length - (self.spec.sliding_window or length))
        is_whole = kept.num_kept >= length - 1

        def read(layer: int, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
            kv = kept.kv[layer]
            if is_whole:
                kv[0, :, length - 1] = k[row]
                kv[1, :, length - 1] = v[row]
            else:
                # The new token's are in its pages by now.
                page_rows = self._page_rows(torch.from_numpy(blocks[:num_blocks]).to(self._device))
                for own, pages in zip(kv, self._gather(layer, page_rows, 1), strict=True):
                    own[:, :length] = pages[0, :, :length]
            if layer == self.spec.num_layers - 1:
                kept.num_kept = length
            keys, values = kv[:, None, :, first:length]
            queries = q[row].reshape(1, self.spec.num_kv_heads, -1, q.shape[2])
            found = F.scaled_dot_product_attention(queries, keys, values)
            out[row] = found.reshape(-1)

        return read

    def _plan_decode(self, group: DecodeGroup) -> _Read:
        num_rows, kv_heads = group.stop - group.start, self.spec.num_kv_heads
        page_rows = self._page_rows(torch.from_numpy(group.blocks).to(self._device))
        longest = int(group.lengths.max())
        visible = self._visible(group.order) if group.order else self._in_window(group, longest)
        mask = None
        if visible is not None:
            mask = torch.zeros(visible.shape, dtype=self._pool.dtype, device=self._device)
            mask = mask.masked_fill_(~visible, float("-inf"))[:, None, None, :]

        def read(layer: int, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
            keys, values = self._gather(layer, page_rows, num_rows)
            # One query a sequence needs no causal mask, so its group of heads can stand in as the query rows.
            queries = q[group.start : group.stop].view(num_rows, kv_heads, -1, q.shape[2])
            found = F.scaled_dot_product_attention(
                queries, keys[:, :, :longest], values[:, :, :longest], attn_mask=mask
            )
            out[group.start : group.stop] = found.reshape(num_rows, -1)

        return read

    def _in_window(self, group: DecodeGroup, longest: int) -> Tensor | None:
        """bool [rows, longest]: neither padding nor left behind by the window; None where every row sees all keys."""
        window = self.spec.sliding_window or longest
        if int(group.lengths.min()) == longest <= window:
            return None
        lengths = torch.from_numpy(group.lengths).to(self._device)
        place = torch.arange(longest, device=self._device)
        return (place < lengths[:, None]) & (place >= lengths[:, None] - window)

    def _visible(self, order: KeyOrder) -> Tensor:
        """bool [rows, keys]."""
        queries, keys = (torch.from_numpy(numbers).to(self._device) for numbers in (order.queries, order.keys))
        return keys <= queries[:, None]

    def _plan_prefill(self, part: PrefillSlice) -> _Read:
        rows = slice(part.start, part.stop)
        length = part.stop - part.start
        total = part.order.keys.shape[-1] if part.order else part.context + length
        window = self.spec.sliding_window or total

        def read_own(layer: int, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
            queries, keys, values = (x[rows].transpose(0, 1)[None] for x in (q, k, v))
            found = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
            out[rows] = found[0].transpose(0, 1).reshape(length, -1)

        if part.context == 0 and window >= total:
            return read_own

        page_rows = self._page_rows(torch.from_numpy(part.blocks).to(self._device))
        if part.order:
            visible = self._visible(part.order)
        else:
            visible = torch.ones(length, total, dtype=torch.bool, device=self._device).tril(part.context)
            visible = visible.triu(part.context - window + 1)

        def read_pages(layer: int, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
            keys, values = self._gather(layer, page_rows, 1)
            queries = q[rows].transpose(0, 1)[None]
            found = F.scaled_dot_product_attention(
                queries, keys[:, :, :total], values[:, :, :total], attn_mask=visible, enable_gqa=True
            )
            out[rows] = found[0].transpose(0, 1).reshape(length, -1)

        return read_pages
