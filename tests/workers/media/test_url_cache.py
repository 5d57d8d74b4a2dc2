"""Which answers may be used again, and whether they are."""

import pytest
from aiohttp import web

from schemas.errors import ErrorCode, MediaError
from tests.fakes.clock import Clock
from tests.workers.media.fetching import running
from tests.workers.media.origin import HOST, Origin, redirect
from workers.media.fetch import Fetcher
from workers.media.guard import MediaPolicy
from workers.media.types import MediaKind
from workers.media.url_cache import MAX_FRESH_S, UrlCache, store


@pytest.mark.parametrize(
    ("headers", "fresh_s"),
    [
        ({"Cache-Control": "max-age=60"}, 60),
        ({"Cache-Control": 'public, Max-Age="60"'}, 60),
        ({"Cache-Control": "max-age=60", "Age": "50"}, 10),
        ({"Cache-Control": "max-age=99999999999"}, MAX_FRESH_S),
        ({"Cache-Control": "private, max-age=60"}, 60),
        ({"Cache-Control": "no-cache, max-age=60", "ETag": '"a"'}, 0),
        ({"ETag": '"a"'}, 0),
        ({"Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT"}, 0),
        ({"ETag": '"a"', "Cache-Control": "max-age=-5"}, 0),
        ({"ETag": '"a"', "Cache-Control": "max-age=" + "9" * 30}, 0),
    ],
)
def test_an_origin_says_how_long_its_bytes_stay_fresh(headers: dict[str, str], fresh_s: float) -> None:
    stored = store(b"content", headers, now_s=1000.0)
    assert stored is not None and stored.fresh_until_s == 1000.0 + fresh_s


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "image/png"},
        {"Expires": "Sat, 21 Nov 2099 10:00:00 GMT"},
        {"Cache-Control": "no-store, max-age=60", "ETag": '"a"'},
        {"Cache-Control": "max-age=0"},
        {"Cache-Control": "max-age=60", "Vary": "*"},
        {"Cache-Control": "max-age=60", "Age": "60"},
        {"ETag": '"' + "x" * 600 + '"'},
        {"ETag": '"a\x01"'},
    ],
)
def test_nothing_is_kept_without_leave(headers: dict[str, str]) -> None:
    assert store(b"content", headers, now_s=0.0) is None


class Page:
    """Serves `body`; answers 304 to its own ETag; counts what it was asked."""

    def __init__(self, **headers: str) -> None:
        self.body = b"first"
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.conditions: list[str | None] = []

    async def __call__(self, request: web.Request) -> web.Response:
        condition = request.headers.get("If-None-Match")
        self.conditions.append(condition)
        etag = self.headers.get("ETag")
        if condition is not None and condition == etag:
            return web.Response(status=304, headers={"ETag": etag})
        return web.Response(body=self.body, headers=self.headers)


def caching(origin: Origin, clock: Clock, capacity_bytes: int = 1 << 20) -> Fetcher:
    return Fetcher(MediaPolicy(), origin.resolve, origin.dial, cache=UrlCache(capacity_bytes), clock=clock)


async def test_fresh_bytes_are_not_asked_for_again_and_stale_ones_are_confirmed(origin: Origin) -> None:
    clock, page = Clock(), Page(ETag='"v1"', Cache_Control="max-age=60")
    url = origin.serve("/a.png", page)
    async with running(caching(origin, clock)) as fetcher:
        assert [await fetcher.fetch(url, MediaKind.IMAGE) for _ in range(3)] == [b"first"] * 3
        assert page.conditions == [None]
        clock.now += 61
        assert await fetcher.fetch(url, MediaKind.IMAGE) == b"first"
        assert page.conditions == [None, '"v1"']
        page.body, page.headers["ETag"] = b"second", '"v2"'
        assert await fetcher.fetch(url, MediaKind.IMAGE) == b"second"
        totals = fetcher.figures.totals()
    assert (totals["url_cache_hits_total"], totals["url_cache_revalidated_total"]) == (2, 1)
    assert (totals["fetch_ok_total"], totals["fetch_bytes_total"]) == (2, len(b"first") + len(b"second"))


async def test_without_validators_each_use_is_a_download(origin: Origin) -> None:
    page = Page()
    url = origin.serve("/a.png", page)
    async with running(caching(origin, Clock())) as fetcher:
        assert await fetcher.fetch(url, MediaKind.IMAGE) == await fetcher.fetch(url, MediaKind.IMAGE)
    assert page.conditions == [None, None] and fetcher.cache.size_bytes == 0


async def test_a_copy_that_may_no_longer_be_kept_is_dropped(origin: Origin) -> None:
    page = Page(ETag='"v1"')
    url = origin.serve("/a.png", page)
    async with running(caching(origin, Clock())) as fetcher:
        await fetcher.fetch(url, MediaKind.IMAGE)
        assert fetcher.cache.size_bytes == len(page.body)
        page.body, page.headers = b"other", {"Cache-Control": "no-store"}
        assert await fetcher.fetch(url, MediaKind.IMAGE) == b"other"
    assert fetcher.cache.size_bytes == 0


async def test_tenants_and_kinds_have_copies_of_their_own(origin: Origin) -> None:
    page = Page(Cache_Control="max-age=60")
    url = origin.serve("/a", page)
    async with running(caching(origin, Clock())) as fetcher:
        for kind, tenant in ((MediaKind.IMAGE, "a"), (MediaKind.IMAGE, "b"), (MediaKind.VIDEO, "a")):
            await fetcher.fetch(url, kind, tenant)
            await fetcher.fetch(url, kind, tenant)
    assert len(page.conditions) == 3


async def test_copies_stay_within_their_bytes(origin: Origin) -> None:
    async with running(caching(origin, Clock(), capacity_bytes=12)) as fetcher:
        for name in ("/a", "/b", "/c"):
            await fetcher.fetch(origin.serve(name, Page(Cache_Control="max-age=60")), MediaKind.IMAGE)
    assert (len(fetcher.cache), fetcher.cache.size_bytes) == (2, 10)


async def test_a_redirect_is_followed_anew_each_time(origin: Origin) -> None:
    page = Page(Cache_Control="max-age=60")
    target = origin.serve("/a.png", page)
    hop = origin.serve("/hop", redirect(target))
    async with running(caching(origin, Clock())) as fetcher:
        await fetcher.fetch(hop, MediaKind.IMAGE)
        await fetcher.fetch(hop, MediaKind.IMAGE)
        origin.serve("/hop", redirect("http://127.0.0.1/"))
        with pytest.raises(MediaError) as failed:
            await fetcher.fetch(hop, MediaKind.IMAGE)
    assert failed.value.code == ErrorCode.INVALID_IMAGE_URL
    assert len(page.conditions) == 1 and [r.path for r in origin.requests].count("/hop") == 3


async def test_a_304_that_nobody_asked_for_is_a_failed_download(origin: Origin) -> None:
    async def not_modified(_: web.Request) -> web.Response:
        return web.Response(status=304)

    async with running(caching(origin, Clock())) as fetcher:
        with pytest.raises(MediaError) as failed:
            await fetcher.fetch(origin.serve("/x", not_modified), MediaKind.IMAGE)
    assert failed.value.code == ErrorCode.FAILED_TO_DOWNLOAD_IMAGE
    assert fetcher.figures.totals()["fetch_failed_total"] == 1
    assert HOST in origin.lookups
