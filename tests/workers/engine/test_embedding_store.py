"""Visual embeddings between steps: the values that came, in memory that nothing else shares and that is given back."""

import psutil
import pytest
import torch

from workers.engine.embedding_store import EmbeddingStore

_MIB = 1 << 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 36, 4097], ids=["small", "a tile", "many pages"])
def test_what_was_kept_is_found_again(dtype: torch.dtype, length: int) -> None:
    batch = torch.randn(3, length, 192).to(dtype)
    store = EmbeddingStore()
    store.keep({b"a": batch[0], b"b": batch[2]})
    assert torch.equal(store[b"a"], batch[0]) and torch.equal(store[b"b"], batch[2])


def test_a_part_of_a_transposed_batch_is_found_again() -> None:
    batch = torch.randn(192, 4, 36).permute(1, 2, 0)
    store = EmbeddingStore()
    store.keep({b"a": batch[1]})
    assert torch.equal(store[b"a"], batch[1])


@pytest.mark.parametrize("length", [1, 36])
def test_what_is_kept_does_not_follow_its_batch(length: int) -> None:
    batch = torch.zeros(2, length, 192)
    store = EmbeddingStore()
    store.keep({b"a": batch[0]})
    batch += 1
    assert not store[b"a"].any()
    assert store[b"a"].untyped_storage().nbytes() == batch[0].numel() * 4


def test_a_key_kept_again_has_the_new_values_and_a_dropped_one_is_gone() -> None:
    store = EmbeddingStore()
    store.keep({b"a": torch.zeros(36, 192)})
    store.keep({b"a": torch.ones(36, 192)})
    assert store[b"a"].all()
    store.drop(b"a")
    store.drop(b"a")
    with pytest.raises(KeyError):
        store[b"a"]


def test_an_embedding_that_is_read_outlives_its_dropping() -> None:
    store = EmbeddingStore()
    store.keep({b"a": torch.ones(36, 192)})
    rows = store[b"a"][4:8]
    store.drop(b"a")
    assert rows.sum() == 4 * 192


def test_memory_goes_back_to_the_system_though_short_lived_tensors_lay_between() -> None:
    process, store = psutil.Process(), EmbeddingStore()
    before = process.memory_info().rss
    for n in range(4000):
        store.keep({n.to_bytes(2): torch.randn(8, 36, 192)[n % 8]})
    full = process.memory_info().rss
    for n in range(4000):
        store.drop(n.to_bytes(2))
    after = process.memory_info().rss
    assert full - before > 100 * _MIB  # 4,000 times 27 KB
    assert after - before < 10 * _MIB
