"""How much of everything an engine gets where the operator does not say. Pure arithmetic over what the device has."""

from dataclasses import dataclass

from workers.models.base import ModelError

_GIB = 1 << 30
_FULL_LENGTH_ON_CPU = 16
"""Sequences of full length at a time that a CPU's pool is made for: every page is used sooner or later, for prefixes
if for nothing else, so a larger pool would only look like a leak."""

_PREFILL_PER_DECODE = 16
"""On a CPU a step takes as long as its tokens are many. With so many for each that decodes, its next token comes after
two or three times its usual time, and prompts of up to 16 times their answers' length still keep all seats decoding.
Most, before the pace of prefills knows what they cost."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What one engine may hold and do in a step. Token figures count prompt and generated tokens alike."""

    max_model_len: int
    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_encode_tokens: int
    encoder_cache_bytes: int
    prefill_per_decode: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What the operator asked for; None = not said."""

    max_model_len: int | None = None
    kv_cache_bytes: int | None = None
    num_kv_blocks: int | None = None
    block_size: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    encoder_cache_bytes: int | None = None


def size_engine(
    asked: Asked, is_cuda: bool, free_bytes: int, kv_token_bytes: int, max_positions: int, rope_extends: bool
) -> EngineLimits:
    """Fill in what was not asked for.

    free_bytes: memory of the device that is free once the weights are loaded. max_positions: the checkpoint's
    max_position_embeddings; only where `rope_extends` may max_model_len be more.
    Raises ModelError when what was asked for contradicts the checkpoint or the memory.
    """
    max_model_len = asked.max_model_len or max_positions
    if max_model_len > max_positions and not rope_extends:
        raise ModelError(f"max-model-len {max_model_len} is more than the checkpoint's {max_positions} positions")
    block_size = asked.block_size or 16
    max_num_seqs = asked.max_num_seqs or (256 if is_cuda else 64)
    if asked.num_kv_blocks is not None:
        num_blocks = asked.num_kv_blocks
    else:
        # On a CPU the pool is only touched as it fills, but it must not crowd out what else the machine does.
        budget = asked.kv_cache_bytes or (int(free_bytes * 0.85) if is_cuda else min(4 * _GIB, free_bytes // 4))
        full_length = max_num_seqs if is_cuda else min(max_num_seqs, _FULL_LENGTH_ON_CPU)
        most_useful = full_length * -(-max_model_len // block_size)
        num_blocks = min(budget // (kv_token_bytes * block_size), most_useful)
    if num_blocks < 1:
        raise ModelError("the K/V cache has no room for a single block; give it more memory (--kv-cache-memory)")
    encoder_cache_bytes = asked.encoder_cache_bytes
    if encoder_cache_bytes is None:
        encoder_cache_bytes = _GIB if is_cuda else _GIB // 4
    return EngineLimits(
        max_model_len=min(max_model_len, num_blocks * block_size),
        num_blocks=num_blocks,
        block_size=block_size,
        max_num_seqs=max_num_seqs,
        # The longest that a running stream waits for its next token is the time of one such step; more tokens than
        # these make no product faster.
        max_num_batched_tokens=max(max_num_seqs, asked.max_num_batched_tokens or (8192 if is_cuda else 512)),
        max_encode_tokens=16384 if is_cuda else 512,
        encoder_cache_bytes=encoder_cache_bytes,
        prefill_per_decode=None if is_cuda else _PREFILL_PER_DECODE,
    )
