import numpy as np

from workers.media.cache import MediaCache
from workers.media.types import PreparedMedia


def media(size_bytes: int) -> PreparedMedia:
    return PreparedMedia(np.zeros((size_bytes,), np.uint8), (1,), b"", 1, 1)


def test_the_least_recently_used_goes_first_and_bytes_stay_within_bounds() -> None:
    cache = MediaCache(100)
    for name in (b"a", b"b", b"c"):
        cache.put(("", name), media(30))
    assert cache.get(("", b"a")) is not None
    cache.put(("", b"d"), media(30))
    assert cache.get(("", b"b")) is None
    assert cache.get(("", b"a")) is not None
    assert (cache.size_bytes, len(cache), cache.num_hits, cache.num_misses) == (90, 3, 2, 1)


def test_what_does_not_fit_at_all_is_not_kept_and_drops_nothing() -> None:
    cache = MediaCache(100)
    cache.put(("", b"a"), media(60))
    cache.put(("", b"b"), media(101))
    assert len(cache) == 1 and cache.size_bytes == 60


def test_a_key_put_twice_counts_once() -> None:
    cache = MediaCache(100)
    cache.put(("", b"a"), media(60))
    cache.put(("", b"a"), media(70))
    assert len(cache) == 1 and cache.size_bytes == 70


def test_tenants_do_not_see_each_other() -> None:
    cache = MediaCache(100)
    cache.put(("one", b"a"), media(10))
    assert cache.get(("two", b"a")) is None
