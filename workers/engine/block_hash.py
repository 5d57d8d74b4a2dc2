"""Identity of a full block of key/value slots: what must be equal for two sequences to share it.

The hash of a block chains its parent's hash (at the root: the salt), its token ids, the media that its placeholders
stand for, and, where the rope is not plain at the lengths in question, those lengths. Knows no pages.
"""

import hashlib
import struct
from array import array

from workers.engine.sequence import Sequence


def root_hash(salt: bytes) -> bytes:
    """Parent of every first block under one salt."""
    return hashlib.sha256(b"prefix-cache-root\0" + salt).digest()


def extend_block_hashes(seq: Sequence, block_size: int, num_blocks: int) -> None:
    """Bring `seq.block_hashes` to at least `num_blocks` entries; all those blocks must be full of known tokens."""
    hashes = seq.block_hashes
    parent = hashes[-1] if hashes else root_hash(seq.cache_salt)
    for index in range(len(hashes), num_blocks):
        start = index * block_size
        parent = _block_hash(parent, seq, start, start + block_size)
        hashes.append(parent)


def _block_hash(parent: bytes, seq: Sequence, start: int, end: int) -> bytes:
    """sha256 over fields of fixed size or with their counts in front, so that no two contents read the same."""
    digest = hashlib.sha256(parent)
    digest.update(_ints(seq.token_ids[start:end]))
    media = seq.media_between(start, end)
    digest.update(_ints([len(media)]))
    for item in media:
        digest.update(struct.pack("<qqqq", start - item.start, item.length, item.offset, len(item.key)))
        digest.update(item.key)
    digest.update(_ints(_rope_key(seq, start, end)))
    return digest.digest()


def _rope_key(seq: Sequence, start: int, end: int) -> list[int]:
    """Empty where all keys of the block have the plain rotation, else what their rotation depends on.

    Token p is rotated for the length max(num_prompt_tokens, p + 1), see Sequence.
    """
    if seq.rope_regime is None:
        return []
    first, last = max(seq.num_prompt_tokens, start + 1), max(seq.num_prompt_tokens, end)
    regimes = [seq.rope_regime(length) for length in range(first, last + 1)]
    return [seq.num_prompt_tokens, *regimes] if any(regimes) else []


def _ints(values: list[int]) -> bytes:
    return array("q", [len(values), *values]).tobytes()
