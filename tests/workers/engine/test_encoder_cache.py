import random

import pytest

from workers.engine.encoder_cache import EncoderCache


def encode(cache: EncoderCache, *keys: bytes, num_tokens: int = 4) -> None:
    for key in keys:
        cache.add(key, num_tokens)
    cache.complete(keys)
    cache.check()


def test_oldest_idle_entries_make_room_and_are_reported_once() -> None:
    cache = EncoderCache(capacity_bytes=80, token_bytes=8)
    encode(cache, b"a", b"b")
    assert cache.size_bytes == 64 and cache.take_dropped() == ()
    encode(cache, b"c", num_tokens=8)
    assert cache.take_dropped() == (b"a", b"b") and cache.take_dropped() == ()
    assert b"c" in cache and b"a" not in cache and len(cache) == 1


def test_use_makes_an_entry_recent_again() -> None:
    cache = EncoderCache(8, 1)
    encode(cache, b"a", b"b")
    cache.acquire(b"a", "r")
    cache.release(b"a", "r")
    encode(cache, b"c")
    assert cache.take_dropped() == (b"b",)


def test_entries_in_use_or_pending_are_never_dropped() -> None:
    cache = EncoderCache(8, 1)
    encode(cache, b"a")
    cache.acquire(b"a", "r")
    cache.add(b"b", 4)
    assert not cache.can_add(1)
    cache.complete([b"b"])
    assert cache.can_add(4) and not cache.can_add(5)
    encode(cache, b"c")
    assert cache.take_dropped() == (b"b",) and b"a" in cache


def test_entry_is_in_use_until_its_last_user_lets_go() -> None:
    cache = EncoderCache(4, 1)
    encode(cache, b"a")
    cache.acquire(b"a", "r")
    cache.acquire(b"a", "s")
    cache.acquire(b"a", "s")
    cache.release(b"a", "r")
    cache.release(b"a", "r")
    assert not cache.can_add(4)
    cache.release(b"a", "s")
    assert cache.can_add(4)
    cache.check()


def test_item_larger_than_the_cache_is_kept_only_while_in_use() -> None:
    cache = EncoderCache(4, 1)
    encode(cache, b"small")
    assert cache.can_add(100)
    cache.add(b"large", 100)
    cache.acquire(b"large", "r")
    cache.complete([b"large"])
    cache.check()
    assert cache.take_dropped() == (b"small",) and b"large" in cache and not cache.can_add(1)
    cache.release(b"large", "r")
    assert cache.take_dropped() == (b"large",) and cache.size_bytes == 0
    cache.check()


def test_item_whose_user_ends_before_its_step_is_done_stays_pending() -> None:
    cache = EncoderCache(4, 1)
    cache.add(b"a", 4)
    cache.acquire(b"a", "r")
    cache.release(b"a", "r")
    cache.check()
    assert not cache.can_add(4)
    cache.complete([b"a"])
    assert cache.can_add(4) and b"a" in cache
    cache.check()


def test_failed_step_forgets_what_it_was_to_encode() -> None:
    cache = EncoderCache(8, 1)
    cache.add(b"a", 4)
    cache.acquire(b"a", "r")
    cache.discard([b"a"], dropped=[b"z"])
    cache.release(b"a", "r")
    cache.check()
    assert b"a" not in cache and cache.take_dropped() == (b"z", b"a") and cache.can_add(8)


def test_key_dropped_and_added_again_is_reported_once() -> None:
    cache = EncoderCache(4, 1)
    encode(cache, b"a")
    encode(cache, b"b")
    encode(cache, b"a")
    encode(cache, b"b")
    assert cache.take_dropped() == (b"a", b"b") and b"b" in cache


def test_misuse_is_refused() -> None:
    cache = EncoderCache(4, 1)
    encode(cache, b"a")
    with pytest.raises(ValueError, match="already"):
        cache.add(b"a", 4)
    with pytest.raises(KeyError):
        cache.acquire(b"b", "r")
    with pytest.raises(ValueError, match="too small"):
        EncoderCache(4, 0)
    cache.release(b"b", "r")
    cache.check()


@pytest.mark.parametrize("seed", range(5))
def test_random_use_keeps_the_books_in_balance(seed: int) -> None:
    rng = random.Random(seed)
    cache = EncoderCache(20, 1)
    kept: set[bytes] = set()  # what an owner of embeddings holds
    held: list[tuple[bytes, str]] = []
    for step in range(400):
        pending = []
        for key in {bytes([rng.randrange(12)]) for _ in range(3)}:
            if key not in cache and not cache.can_add(1 + key[0]):
                continue
            if key not in cache:
                cache.add(key, 1 + key[0])
                pending.append(key)
            cache.acquire(key, str(step))
            held.append((key, str(step)))
        kept.difference_update(cache.take_dropped())
        kept.update(pending)
        assert len(kept) == len(cache) and all(key in cache for key in kept)
        cache.complete(pending)
        while held and rng.random() < 0.7:
            cache.release(*held.pop(rng.randrange(len(held))))
        cache.check()
