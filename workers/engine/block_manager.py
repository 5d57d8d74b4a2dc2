"""Pages of key/value slots: who holds which, and which may be found again by their content.

Knows block numbers and hashes; no tensors, models or policy. A block is in exactly one of three states: held by one or
more sequences; cached (held by nobody, content still addressed by its hash); blank. Blank blocks are handed out first,
then the cached block that was let go longest ago.

Only full, computed blocks are shared, and a sequence writes only behind what it shares, so no block is ever copied.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable

from workers.engine.block_hash import extend_block_hashes
from workers.engine.sequence import Sequence


class BlockManager:
    """Hands out `num_blocks` blocks of `block_size` token slots each.

    shares_outputs: whether a generated token's keys and values are those that it would have in a prompt; where not,
    only blocks of prompts are shared.

    Raises ValueError when either is less than 1.
    """

    def __init__(
        self, num_blocks: int, block_size: int, enable_prefix_cache: bool = True, shares_outputs: bool = True
    ) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"num_blocks {num_blocks} and block_size {block_size} must be at least 1")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._enable_prefix_cache = enable_prefix_cache
        self._shares_outputs = shares_outputs
        self._num_holders = [0] * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        self._block_by_hash: dict[bytes, int] = {}
        self._blank = list(reversed(range(num_blocks)))
        self._cached: OrderedDict[int, None] = OrderedDict()  # oldest first

    @property
    def num_free_blocks(self) -> int:
        """Blocks that no sequence holds."""
        return len(self._blank) + len(self._cached)

    @property
    def usage(self) -> float:
        """Fraction of the blocks that sequences hold; 0 when idle, whatever is cached."""
        return 1 - self.num_free_blocks / self.num_blocks

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks `num_tokens` slots take."""
        return -(-num_tokens // self.block_size)

    def lookup(self, seq: Sequence) -> int:
        """How many tokens from the front are in the cache: whole blocks, and always less than all tokens.

        At least one token stays to be computed, else there would be no logits. A hit may end inside a media span: the
        embedding of the whole span is then needed once more and sliced by position, which is never dearer than
        computing the span's head again.
        """
        return len(self._find_prefix(seq)) * self.block_size

    def can_allocate(self, seq: Sequence, num_tokens: int, num_spare_blocks: int = 0) -> bool:
        """Whether `allocate` would succeed and leave `num_spare_blocks` free."""
        if seq.block_table:
            num_held = len(seq.block_table)
        else:
            num_held = sum(self._num_holders[block] > 0 for block in self._find_prefix(seq))
        return self.blocks_for(num_tokens) - num_held + num_spare_blocks <= self.num_free_blocks

    def allocate(self, seq: Sequence, num_tokens: int) -> None:
        """Grow the table until the first `num_tokens` positions have slots.

        A sequence without blocks first takes what the prefix cache has of it: its `num_computed_tokens` becomes the
        hit's length. Ask `can_allocate` before; raises RuntimeError (and changes nothing) where it says no.
        """
        if not self.can_allocate(seq, num_tokens):
            raise RuntimeError(f"no blocks for {num_tokens} tokens of {seq.request_id}: {self.num_free_blocks} free")
        if not seq.block_table:
            self._take_prefix(seq)
        while len(seq.block_table) * self.block_size < num_tokens:
            block = self._pop_free()
            self._num_holders[block] = 1
            seq.block_table.append(block)

    def commit(self, seq: Sequence) -> None:
        """Make the blocks that became full and computed findable. Of two with the same content the first one stays."""
        if not self._enable_prefix_cache:
            return
        num_full = min(seq.num_computed_tokens, self._num_shareable(seq)) // self.block_size
        if num_full <= seq.num_committed_blocks:
            return
        extend_block_hashes(seq, self.block_size, num_full)
        for index in range(seq.num_committed_blocks, num_full):
            block, block_hash = seq.block_table[index], seq.block_hashes[index]
            if block_hash not in self._block_by_hash:
                self._block_by_hash[block_hash] = block
                self._hashes[block] = block_hash
        seq.num_committed_blocks = num_full

    def free(self, seq: Sequence) -> None:
        """Take all blocks from the sequence. Its last blocks will be reused before its first ones."""
        for block in reversed(seq.block_table):
            self._num_holders[block] -= 1
            if self._num_holders[block] > 0:
                continue
            if self._hashes[block] is None:
                self._blank.append(block)
            else:
                self._cached[block] = None
        seq.block_table.clear()

    def reset_prefix_cache(self) -> bool:
        """Forget all cached content. False, and nothing happens, while a sequence holds blocks."""
        if self.num_free_blocks < self.num_blocks:
            return False
        for block in self._cached:
            self._hashes[block] = None
        self._blank.extend(self._cached)
        self._cached.clear()
        self._block_by_hash.clear()
        return True

    def check(self, sequences: Iterable[Sequence] | None = None) -> None:
        """Raise AssertionError unless every block is accounted for exactly once.

        sequences: all that may hold blocks; with them the holders are counted too.
        """
        states = Counter([*self._blank, *self._cached])
        states.update(block for block, holders in enumerate(self._num_holders) if holders)
        _require(states == Counter(range(self.num_blocks)), "a block is in no state, or in two")
        _require(all(self._hashes[block] is None for block in self._blank), "a blank block has a hash")
        found = {block: block_hash for block_hash, block in self._block_by_hash.items()}
        known = {block: block_hash for block, block_hash in enumerate(self._hashes) if block_hash is not None}
        _require(found == known and len(found) == len(self._block_by_hash), "hashes and blocks do not match")
        _require(self._cached.keys() <= found.keys(), "a cached block cannot be found")
        if sequences is not None:
            holders = Counter(block for seq in sequences for block in seq.block_table)
            _require([holders[block] for block in range(self.num_blocks)] == self._num_holders, "holders miscounted")

    def _find_prefix(self, seq: Sequence) -> list[int]:
        """Blocks that hold the sequence's first tokens already; never all of its tokens."""
        if not self._enable_prefix_cache or seq.num_prompt_logprobs is not None:
            return []
        num_blocks = min(seq.num_tokens - 1, self._num_shareable(seq)) // self.block_size
        extend_block_hashes(seq, self.block_size, num_blocks)
        prefix = []
        for block_hash in seq.block_hashes[:num_blocks]:
            block = self._block_by_hash.get(block_hash)
            if block is None:
                break
            prefix.append(block)
        return prefix

    def _num_shareable(self, seq: Sequence) -> int:
        return seq.num_tokens if self._shares_outputs else seq.num_prompt_tokens

    def _take_prefix(self, seq: Sequence) -> None:
        prefix = self._find_prefix(seq)
        for block in prefix:
            self._cached.pop(block, None)
            self._num_holders[block] += 1
        seq.block_table.extend(prefix)
        seq.num_committed_blocks = len(prefix)
        seq.num_computed_tokens = len(prefix) * self.block_size

    def _pop_free(self) -> int:
        if self._blank:
            return self._blank.pop()
        block, _ = self._cached.popitem(last=False)
        block_hash = self._hashes[block]
        if block_hash is not None:
            del self._block_by_hash[block_hash]
        self._hashes[block] = None
        return block


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
