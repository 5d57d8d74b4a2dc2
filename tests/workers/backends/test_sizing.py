"""How much an engine gets where the operator does not say, and what is refused."""

import pytest

from workers.backends.sizing import Asked, EngineLimits, size_engine
from workers.models.base import ModelError

GIB = 1 << 30


def size(asked: Asked, *, is_cuda: bool = False, free: int = 8 * GIB, positions: int = 4096, extends: bool = False):
    return size_engine(asked, is_cuda, free, kv_token_bytes=1024, max_positions=positions, rope_extends=extends)


def test_what_is_asked_for_is_given():
    asked = Asked(512, None, 100, block_size=32, max_num_seqs=7, max_num_batched_tokens=99, encoder_cache_bytes=1000)
    limits = size(asked)
    assert limits == EngineLimits(
        max_model_len=512,
        num_blocks=100,
        block_size=32,
        max_num_seqs=7,
        max_num_batched_tokens=99,
        max_encode_tokens=limits.max_encode_tokens,
        encoder_cache_bytes=1000,
        prefill_per_decode=limits.prefill_per_decode,
    )


def test_a_cpu_pool_takes_a_quarter_of_what_is_free_and_a_gpu_pool_most_of_it():
    most = Asked(max_num_seqs=10**6)
    assert size(most, free=4 * GIB, positions=10**6).num_blocks == GIB // (1024 * 16)
    assert size(most, free=10 * GIB, is_cuda=True).num_blocks == int(10 * GIB * 0.85) // (1024 * 16)


def test_on_a_cpu_those_who_decode_wait_for_a_share_of_prefills_and_on_a_gpu_for_all_of_a_step():
    assert size(Asked()).prefill_per_decode == 16
    assert size(Asked(), is_cuda=True).prefill_per_decode is None


def test_embeddings_get_what_is_asked_for_also_where_that_is_nothing():
    assert size(Asked()).encoder_cache_bytes == GIB // 4
    assert size(Asked(), is_cuda=True).encoder_cache_bytes == GIB
    assert size(Asked(encoder_cache_bytes=0), is_cuda=True).encoder_cache_bytes == 0


def test_no_more_blocks_than_all_seats_can_use():
    assert size(Asked(max_num_seqs=2), positions=64).num_blocks == 2 * 4
    assert size(Asked(max_num_seqs=64), positions=64).num_blocks == 16 * 4
    assert size(Asked(max_num_seqs=64), positions=64, is_cuda=True).num_blocks == 64 * 4


def test_a_memory_budget_counts_in_bytes():
    assert size(Asked(kv_cache_bytes=1 << 20)).num_blocks == (1 << 20) // (1024 * 16)


def test_the_context_is_never_longer_than_the_pool():
    assert size(Asked(num_kv_blocks=10)).max_model_len == 160


def test_a_step_always_has_room_for_one_token_of_every_running_sequence():
    assert size(Asked(max_num_seqs=64, max_num_batched_tokens=16)).max_num_batched_tokens == 64


def test_more_positions_than_the_checkpoint_has_only_where_its_rope_extends():
    assert size(Asked(max_model_len=9000), extends=True).max_model_len == 9000
    with pytest.raises(ModelError, match="9000"):
        size(Asked(max_model_len=9000))


def test_no_room_for_a_single_block_is_an_error():
    with pytest.raises(ModelError, match="kv-cache-memory"):
        size(Asked(kv_cache_bytes=100))
