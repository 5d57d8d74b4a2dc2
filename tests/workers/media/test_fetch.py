"""Downloads against origins that misbehave, and URLs that must never be dialled."""

import asyncio
import gzip

import pytest
from aiohttp import web

from schemas.errors import ErrorCode, MediaError
from tests.workers.media.fetching import fails, fetch, running
from tests.workers.media.origin import HOST, PUBLIC_ADDRESS, SMALL_LIMITS, Canary, Origin, RawHandler, answer, redirect
from workers.media import resolver
from workers.media.fetch import Fetcher, FetchLimits
from workers.media.guard import MediaPolicy, parse_domains, parse_private_hosts
from workers.media.types import MediaKind

LIMIT_BYTES = SMALL_LIMITS[MediaKind.IMAGE].size_bytes


def raw(*pieces: bytes, then_hang: bool = False) -> RawHandler:
    """Answers a request with these bytes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if then_hang:
            await reader.read()

    return handle


async def test_a_page_is_fetched_with_its_own_host_name_and_nothing_else(origin: Origin) -> None:
    url = origin.serve("/a.png", answer(b"content", Set_Cookie="a=b", Content_Type="text/html"))
    async with running(origin.fetcher()) as fetcher:
        assert await fetcher.fetch(url, MediaKind.IMAGE) == b"content"
        assert await fetcher.fetch(url, MediaKind.IMAGE) == b"content"
    headers = origin.requests[1].headers
    assert headers["Host"] == HOST
    assert headers["Accept-Encoding"] == "identity"
    assert not {"Cookie", "Authorization", "Referer", "Proxy-Authorization"} & set(headers)


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{port}/", "http://[::ffff:127.0.0.1]:{port}/", "http://2130706433:{port}/",
        "http://localhost:{port}/", "http://user@127.0.0.1:{port}/", f"http://{HOST}\\@127.0.0.1:{{port}}/",
        "file:///etc/passwd", "/etc/passwd", "gopher://127.0.0.1:{port}/", "data:image/png,x",
    ],
)  # fmt: skip
async def test_a_redirect_may_not_lead_anywhere_else(target: str, origin: Origin, canary: Canary) -> None:
    target = target.format(port=canary.port)
    code = await fails(origin, origin.serve("/hop", redirect(target)))
    assert code in (ErrorCode.INVALID_IMAGE_URL, ErrorCode.FAILED_TO_DOWNLOAD_IMAGE)
    assert canary.num_hits == 0
    if target.startswith("/"):
        assert [request.path for request in origin.requests][-1] == "/etc/passwd"  # on the origin itself
    else:
        assert code == ErrorCode.INVALID_IMAGE_URL


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/", "http://[::ffff:7f00:1]:{port}/", "http://0:{port}/"])
async def test_loopback_is_not_reached(url: str, origin: Origin, canary: Canary) -> None:
    assert await fails(origin, url.format(port=canary.port)) == ErrorCode.INVALID_IMAGE_URL
    assert canary.num_hits == 0 and origin.lookups.total() == 0


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], [PUBLIC_ADDRESS, "10.0.0.1"], ["::1"], ["64:ff9b::7f00:1"], ["169.254.169.254"]],
)
async def test_a_name_with_one_private_address_is_refused(addresses: list[str], origin: Origin) -> None:
    origin.names["rebind.example.com"] = addresses
    assert await fails(origin, "http://rebind.example.com/") == ErrorCode.INVALID_IMAGE_URL
    assert origin.num_connections == 0


async def test_a_name_is_resolved_once_and_the_judged_address_is_dialled(origin: Origin) -> None:
    answers = iter([[PUBLIC_ADDRESS], ["127.0.0.1"], ["127.0.0.1"]])

    async def rebinding(host: str) -> list[str]:
        origin.lookups[host] += 1
        return next(answers)

    url = origin.serve("/a", answer(b"content"))
    async with running(Fetcher(MediaPolicy(), rebinding, origin.dial)) as fetcher:
        assert await fetcher.fetch(url, MediaKind.IMAGE) == b"content"
    assert origin.lookups[HOST] == 1


@pytest.mark.parametrize("found", [[], [f"93.184.{n // 250}.{n % 250 + 1}" for n in range(500)]])
async def test_no_address_or_hundreds_is_a_failed_download(found: list[str], origin: Origin) -> None:
    origin.names["odd.example.com"] = found
    assert await fails(origin, "http://odd.example.com/") == ErrorCode.FAILED_TO_DOWNLOAD_IMAGE
    assert await fails(origin, "http://unknown.example.com/") == ErrorCode.FAILED_TO_DOWNLOAD_IMAGE
    assert origin.lookups["unknown.example.com"] == 1


async def test_a_name_server_that_never_answers_is_a_failed_download(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(_: str) -> list[str]:
        return await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(resolver, "TIMEOUT_S", 0.05)
    async with running(Fetcher(MediaPolicy(), silent, origin.dial)) as fetcher:
        with pytest.raises(MediaError) as failed:
            await fetcher.fetch(f"http://{HOST}/", MediaKind.IMAGE)
    assert failed.value.code == ErrorCode.FAILED_TO_DOWNLOAD_IMAGE


async def test_a_private_host_is_reached_once_it_is_named(origin: Origin, canary: Canary) -> None:
    policy = MediaPolicy(private_hosts=parse_private_hosts([f"127.0.0.1:{canary.port}"]))
    url = f"http://127.0.0.1:{canary.port}/x"
    assert await fails(origin, url, policy) == ErrorCode.FAILED_TO_DOWNLOAD_IMAGE
    assert canary.num_hits > 0


async def test_a_private_name_is_reached_once_it_is_named(origin: Origin) -> None:
    origin.names["nas.local"] = ["10.0.0.7"]
    origin.serve("/x", answer(b"content"))
    policy = MediaPolicy(private_hosts=parse_private_hosts(["nas.local"]))
    dialled = []

    def dial(address: str, port: int) -> tuple[str, int]:
        dialled.append(address)
        return origin.dial(PUBLIC_ADDRESS, port)

    async with running(Fetcher(policy, origin.resolve, dial)) as fetcher:
        assert await fetcher.fetch("http://nas.local/x", MediaKind.IMAGE) == b"content"
    assert dialled == ["10.0.0.7"]


async def test_three_redirects_are_followed_and_no_fourth(origin: Origin) -> None:
    origin.serve("/4", redirect("/3", 301))
    origin.serve("/3", redirect(f"http://{HOST}/2", 307))
    origin.serve("/2", redirect(f"//{HOST}/1", 303))
    origin.serve("/1", redirect("0"))
    origin.serve("/0", answer(b"content"))
    assert await fetch(origin, f"http://{HOST}/3") == b"content"
    origin.requests.clear()
    assert await fails(origin, f"http://{HOST}/4") == ErrorCode.FAILED_TO_DOWNLOAD_IMAGE
    assert len(origin.requests) == 4


async def test_a_redirect_loop_ends(origin: Origin) -> None:
    origin.serve("/b", redirect("/a"))
    assert await fails(origin, origin.serve("/a", redirect("/b"))) == ErrorCode.FAILED_TO_DOWNLOAD_IMAGE
    assert len(origin.requests) == 4


@pytest.mark.parametrize("status", [201, 204, 206, 300, 304, 401, 403, 404, 407, 410, 429])
async def test_any_status_but_200_is_a_failed_download_without_a_second_try(status: int, origin: Origin) -> None:
    page = answer(b"secret of the origin", status, WWW_Authenticate="Basic")
    assert await fails(origin, origin.serve("/x", page)) == ErrorCode.FAILED_TO_DOWNLOAD_IMAGE
    assert len(origin.requests) == 1


async def test_a_redirect_without_a_target_fails(origin: Origin) -> None:
    assert await fails(origin, origin.serve("/x", answer(b"", 301))) == ErrorCode.FAILED_TO_DOWNLOAD_IMAGE


async def test_one_more_try_follows_a_server_error(origin: Origin) -> None:
    calls = 0

    async def flaky(_: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return web.Response(status=503) if calls == 1 else web.Response(body=b"content")

    assert await fetch(origin, origin.serve("/flaky", flaky)) == b"content"
    assert await fails(origin, origin.serve("/broken", answer(b"", 500))) == ErrorCode.FAILED_TO_DOWNLOAD_IMAGE
    assert [request.path for request in origin.requests].count("/broken") == 2


async def test_a_slow_origin_runs_into_the_total_time(origin: Origin) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b".")
            await asyncio.sleep(0.01)
        return response

    assert await fails(origin, origin.serve("/x", drip), total_s=0.3) == ErrorCode.FAILED_TO_DOWNLOAD_IMAGE


async def test_a_body_below_the_least_rate_is_given_up(origin: Origin) -> None:
    sent = 0

    async def trickle(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 10)
            sent += 10
            await asyncio.sleep(0.01)

    limits = {MediaKind.IMAGE: FetchLimits(60.0, LIMIT_BYTES, bytes_per_s=1 << 20, grace_s=0.2)}
    fetcher = Fetcher(MediaPolicy(), origin.resolve, origin.dial, limits)
    async with running(fetcher):
        with pytest.raises(MediaError, match="too slowly") as failed:
            await fetcher.fetch(origin.serve("/x", trickle), MediaKind.IMAGE)
        assert await fetcher.fetch(origin.serve("/y", answer(b"x" * LIMIT_BYTES)), MediaKind.IMAGE)
    assert failed.value.code == ErrorCode.FAILED_TO_DOWNLOAD_IMAGE
    assert 0 < sent < LIMIT_BYTES


async def test_only_named_domains_are_dialled_and_redirects_stay_on_them(origin: Origin) -> None:
    policy = MediaPolicy(domains=parse_domains([HOST]))
    origin.names["other.example.com"] = [PUBLIC_ADDRESS]
    assert await fetch(origin, origin.serve("/a", answer(b"content")), policy) == b"content"
    assert await fails(origin, "http://other.example.com/a", policy) == ErrorCode.INVALID_IMAGE_URL
    hop = origin.serve("/hop", redirect("http://other.example.com/a"))
    assert await fails(origin, hop, policy) == ErrorCode.INVALID_IMAGE_URL
    assert origin.lookups["other.example.com"] == 0


async def test_an_endless_body_is_cut_at_the_limit(origin: Origin) -> None:
    written = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 4096)
            written += 4096

    assert await fails(origin, origin.serve("/x", endless)) == ErrorCode.IMAGE_FILE_TOO_LARGE
    assert written < 100 * LIMIT_BYTES


async def test_exactly_the_limit_is_accepted(origin: Origin) -> None:
    assert len(await fetch(origin, origin.serve("/x", answer(b"x" * LIMIT_BYTES)))) == LIMIT_BYTES
    assert await fails(origin, origin.serve("/y", answer(b"x" * (LIMIT_BYTES + 1)))) == ErrorCode.IMAGE_FILE_TOO_LARGE


async def test_a_huge_declared_length_is_refused_before_the_body(origin: Origin) -> None:
    url = origin.serve_raw(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10995116277760\r\n\r\n", then_hang=True))
    assert await fails(origin, url) == ErrorCode.IMAGE_FILE_TOO_LARGE


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 50,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * (1 << 20) + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(10_000)) + b"\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"<html>HTTP/0.9</html>",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
    ],
)
async def test_replies_that_are_not_whole_http_are_failed_downloads(reply: bytes, origin: Origin) -> None:
    assert await fails(origin, origin.serve_raw(raw(reply))) == ErrorCode.FAILED_TO_DOWNLOAD_IMAGE


async def test_an_origin_that_never_replies_runs_into_the_total_time(origin: Origin) -> None:
    url = origin.serve_raw(raw(then_hang=True))
    assert await fails(origin, url, total_s=0.2) == ErrorCode.FAILED_TO_DOWNLOAD_IMAGE


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate", "gzip, gzip", "x-unknown"])
async def test_a_compressed_body_is_refused_unread(coding: str, origin: Origin) -> None:
    bomb = gzip.compress(b"\x00" * (1 << 20))
    page = answer(bomb, Content_Encoding=coding)
    assert await fails(origin, origin.serve("/x", page)) == ErrorCode.FAILED_TO_DOWNLOAD_IMAGE


async def test_an_empty_body_is_an_empty_file(origin: Origin) -> None:
    assert await fails(origin, origin.serve("/x", answer(b""))) == ErrorCode.EMPTY_IMAGE_FILE


async def test_at_most_eight_connections_go_to_one_host(origin: Origin) -> None:
    open_now = most = 0
    eight = asyncio.Event()

    async def count(_: web.Request) -> web.Response:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        if open_now == 8:
            eight.set()
        await eight.wait()
        open_now -= 1
        return web.Response(body=b"x")

    urls = [origin.serve(f"/{n}", count) for n in range(20)]
    async with running(origin.fetcher()) as fetcher:
        await asyncio.gather(*(fetcher.fetch(url, MediaKind.IMAGE) for url in urls))
    assert most == 8


async def test_codes_and_limits_follow_the_kind(origin: Origin) -> None:
    url = origin.serve("/x", answer(b"x" * (LIMIT_BYTES + 1)))
    async with running(origin.fetcher()) as fetcher:
        assert len(await fetcher.fetch(url, MediaKind.VIDEO)) == LIMIT_BYTES + 1
        with pytest.raises(MediaError) as failed:
            await fetcher.fetch(origin.serve("/y", answer(b"x", 404)), MediaKind.VIDEO)
    assert failed.value.code == ErrorCode.FAILED_TO_DOWNLOAD_VIDEO
