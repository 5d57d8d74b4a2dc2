"""What the store of responses keeps, and what goes first."""

from typing import Any

from schemas.jobs import ChatJob
from schemas.openai.chat import parse_chat_request
from schemas.openai.responses import parse_responses_request
from schemas.sampling import SamplingParams
from server.responses.record import begun
from server.responses.store import ResponseStore, StoredResponse, StoreLimits
from tests.fakes.clock import Clock


def store_of(clock: Clock | None = None, **limits: Any) -> ResponseStore:
    return ResponseStore(StoreLimits(**limits), clock or Clock())


def entry(name: str, size_bytes: int = 1) -> StoredResponse:
    request, _ = parse_responses_request({"input": "hello"})
    chat = parse_chat_request({"model": "demo", "messages": [{"role": "user", "content": "x"}]})
    job = ChatJob(job_id=name, model="demo", messages=(), sampling=SamplingParams(seed=0))
    return StoredResponse(begun(request, chat, job), (), (), size_bytes)


def kept(store: ResponseStore, tenant: str, *names: str) -> list[str]:
    return [name for name in names if store.get(tenant, f"resp_{name}") is not None]


def test_the_least_recently_used_of_too_many_goes() -> None:
    store = store_of(max_responses=2)
    store.put("t", entry("a"))
    store.put("t", entry("b"))
    assert store.get("t", "resp_a") is not None
    store.put("t", entry("c"))
    assert kept(store, "t", "a", "b", "c") == ["a", "c"]


def test_a_tenants_bytes_are_bounded_by_its_own_entries_alone() -> None:
    store = store_of(max_bytes=10)
    store.put("other", entry("x", 10))
    for name in "abc":
        store.put("t", entry(name, 4))
    assert (kept(store, "t", "a", "b", "c"), kept(store, "other", "x")) == (["b", "c"], ["x"])
    assert store.size_bytes == 18


def test_of_all_tenants_bytes_the_least_recently_used_go() -> None:
    clock = Clock()
    store = store_of(clock, max_bytes=10, all_bytes=12)
    for tenant, name, size_bytes in (("t", "a", 3), ("u", "b", 5), ("t", "c", 4), ("v", "d", 4)):
        store.put(tenant, entry(name, size_bytes))
        clock.advance(1)
    assert (kept(store, "t", "a", "c"), kept(store, "u", "b"), kept(store, "v", "d")) == (["c"], [], ["d"])
    assert store.size_bytes == 8


def test_the_latest_is_kept_whatever_its_answer_added() -> None:
    store = store_of(max_bytes=10, all_bytes=10)
    store.put("t", entry("a", 4))
    store.put("t", entry("b", 11))
    assert kept(store, "t", "a", "b") == ["b"]
    store.put("u", entry("c", 1))
    assert (kept(store, "t", "b"), kept(store, "u", "c")) == ([], ["c"])


def test_entries_grow_old_from_their_last_use() -> None:
    clock = Clock()
    store = store_of(clock, max_age_s=10)
    store.put("t", entry("a"))
    store.put("t", entry("b"))
    clock.advance(8)
    assert kept(store, "t", "a") == ["a"]
    clock.advance(8)
    assert kept(store, "t", "a", "b") == ["a"]
    clock.advance(11)
    assert (kept(store, "t", "a"), len(store), store.size_bytes) == ([], 0, 0)


def test_deleting_gives_the_bytes_back() -> None:
    store = store_of()
    store.put("t", entry("a", 7))
    assert not store.delete("other", "resp_a")
    assert store.delete("t", "resp_a")
    assert not store.delete("t", "resp_a")
    assert (len(store), store.size_bytes) == (0, 0)


def test_two_of_the_largest_bodies_fit() -> None:
    limits = StoreLimits.for_bodies(500 * 2**20)
    assert (limits.max_bytes, limits.all_bytes) == (1000 * 2**20, 2000 * 2**20)
    assert StoreLimits.for_bodies(1) == StoreLimits()
