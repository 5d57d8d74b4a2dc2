"""The bytes behind a URL. The only module of the daemon that opens a connection or a file for a client.

Every hop of an http URL is judged by `guard`; the addresses that were judged are the ones that are dialled, with the
client's host name kept for Host and TLS. Nothing is sent but a plain GET: no cookie, credential, proxy or referrer.
"""

import asyncio
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from yarl import URL

from workers.media.failures import Failure, media_error
from workers.media.figures import MediaFigures
from workers.media.guard import MediaPolicy, Refused, judge_file, judge_url
from workers.media.resolver import Dial, JudgingResolver, Resolve, SystemResolver
from workers.media.types import MediaKind
from workers.media.url_cache import StoredBytes, UrlCache, store

MAX_REDIRECTS = 3
CONNECT_TIMEOUT_S = 3.0
MAX_CONNECTIONS_PER_HOST = 8
_CHUNK_BYTES = 64 << 10
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "glimpsed"}


@dataclass(frozen=True)
class FetchLimits:
    """Of one download, redirects and a second attempt included.

    A body that after `grace_s` has come slower than `bytes_per_s` on the whole is given up.
    """

    total_s: float
    size_bytes: int
    bytes_per_s: int = 16 << 10
    grace_s: float = 3.0


LIMITS = {
    MediaKind.IMAGE: FetchLimits(total_s=10.0, size_bytes=20 << 20),
    MediaKind.VIDEO: FetchLimits(total_s=30.0, size_bytes=100 << 20),
}


class Fetcher:
    """`start()` and `close()` on the event loop that `fetch()` is called on.

    `cache`: bytes whose origin allows to use them again; none where it is left out.
    """

    def __init__(
        self,
        policy: MediaPolicy,
        resolve: Resolve | None = None,
        dial: Dial = lambda address, port: (address, port),
        limits: dict[MediaKind, FetchLimits] | None = None,
        cache: UrlCache | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._resolve = resolve
        self._dial = dial
        self._limits = limits or LIMITS
        self._clock = clock
        self._system_resolver: SystemResolver | None = None
        self._session: aiohttp.ClientSession | None = None
        self.cache = cache if cache is not None else UrlCache(0)
        self.figures = MediaFigures()

    async def start(self) -> None:
        self._system_resolver = SystemResolver()
        resolver = JudgingResolver(self._policy, self._resolve or self._system_resolver, self._dial)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=resolver, use_dns_cache=False, limit_per_host=MAX_CONNECTIONS_PER_HOST
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        if self._system_resolver is not None:
            self._system_resolver.close()

    def max_bytes(self, kind: MediaKind) -> int:
        """How large a file may be."""
        return self._limits[kind].size_bytes

    async def fetch(self, url: str, kind: MediaKind, tenant: str = "") -> bytes:
        """What an http, https or file URL stands for, never empty.

        Raises MediaError without `param`: not allowed, not there, too slow, too large.
        """
        scheme = url[:5].lower()
        try:
            if scheme == "file:":
                content = await asyncio.to_thread(self._read_file, url, kind)
            else:
                content = await self._counted_download(url, kind, tenant)
        except Refused as refusal:
            raise media_error(kind, Failure.URL, str(refusal)) from refusal
        if not content:
            raise media_error(kind, Failure.EMPTY, f"The {kind} is empty.")
        return content

    async def _counted_download(self, url: str, kind: MediaKind, tenant: str) -> bytes:
        began_s = self._clock()
        try:
            return await self._download(judge_url(url, self._policy), kind, tenant)
        except Exception:
            self.figures.fetch_failed(self._clock() - began_s)
            raise

    async def _download(self, url: URL, kind: MediaKind, tenant: str) -> bytes:
        total_s = self._limits[kind].total_s
        try:
            async with asyncio.timeout(total_s):
                return await self._follow(url, kind, tenant)
        except TimeoutError as error:
            message = f"The {kind} could not be downloaded within {total_s:g} seconds."
            raise media_error(kind, Failure.DOWNLOAD, message) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise media_error(kind, Failure.DOWNLOAD, f"The {kind} could not be downloaded.") from error

    async def _follow(self, url: URL, kind: MediaKind, tenant: str) -> bytes:
        """Each hop is looked up in the cache by its own URL: how long a redirect holds is not known."""
        for _ in range(MAX_REDIRECTS + 1):
            key = (tenant, kind, str(url))
            stored = self.cache.get(key)
            if stored is not None and self._clock() < stored.fresh_until_s:
                self.figures.url_cache_hit(is_revalidated=False)
                return stored.content
            began_s = self._clock()
            async with await self._request(url, stored.conditions() if stored is not None else {}) as response:
                if stored is not None and response.status == 304:
                    self._keep(key, stored.refreshed(response.headers, self._clock()))
                    self.figures.url_cache_hit(is_revalidated=True)
                    return stored.content
                if response.status not in _REDIRECTS:
                    content = await self._body(response, kind)
                    self._keep(key, store(content, response.headers, self._clock()))
                    self.figures.fetched(len(content), self._clock() - began_s)
                    return content
                url = self._next_hop(url, response, kind)
        raise media_error(kind, Failure.DOWNLOAD, f"The URL redirects more than {MAX_REDIRECTS} times.")

    def _keep(self, key: tuple[str, MediaKind, str], stored: StoredBytes | None) -> None:
        if stored is None:
            self.cache.drop(key)
        else:
            self.cache.put(key, stored)

    async def _request(self, url: URL, conditions: dict[str, str]) -> aiohttp.ClientResponse:
        """A second attempt follows a lost connection or a 5xx answer, no third."""
        assert self._session is not None, "start() comes first"
        try:
            response = await self._session.get(url, headers=conditions, allow_redirects=False)
            if response.status < 500:
                return response
            response.close()
        except aiohttp.ClientConnectorDNSError:
            raise
        except aiohttp.ClientConnectionError:
            pass
        return await self._session.get(url, headers=conditions, allow_redirects=False)

    def _next_hop(self, url: URL, response: aiohttp.ClientResponse, kind: MediaKind) -> URL:
        location = response.headers.get("Location")
        if not location:
            raise media_error(kind, Failure.DOWNLOAD, "The URL redirects to nowhere.")
        try:
            joined = url.join(URL(location, encoded=location.isascii()))
        except ValueError as error:
            raise Refused("The URL redirects to one that cannot be read.") from error
        target = judge_url(str(joined), self._policy)
        if url.scheme == "https" and target.scheme == "http":
            raise Refused("The URL redirects from https to http.")
        return target

    async def _body(self, response: aiohttp.ClientResponse, kind: MediaKind) -> bytes:
        if response.status != 200:
            message = f"The server answered with status {response.status} instead of the {kind}."
            raise media_error(kind, Failure.DOWNLOAD, message)
        if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            raise media_error(kind, Failure.DOWNLOAD, f"The server sent the {kind} compressed, which is not accepted.")
        if (response.content_length or 0) > self._limits[kind].size_bytes:
            raise _file_too_large(kind, self._limits[kind].size_bytes)
        try:
            return await self._stream(response, kind)
        except TimeoutError as error:
            raise media_error(kind, Failure.DOWNLOAD, f"The server sends the {kind} too slowly.") from error

    async def _stream(self, response: aiohttp.ClientResponse, kind: MediaKind) -> bytes:
        """Raises TimeoutError where bytes come too slowly: each one puts the end off by its share."""
        limits = self._limits[kind]
        chunks, size = [], 0
        end_s = asyncio.get_running_loop().time() + limits.grace_s
        async with asyncio.timeout_at(end_s) as patience:
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                size += len(chunk)
                if size > limits.size_bytes:
                    raise _file_too_large(kind, limits.size_bytes)
                chunks.append(chunk)
                patience.reschedule(end_s + size / limits.bytes_per_s)
        return b"".join(chunks)

    def _read_file(self, url: str, kind: MediaKind) -> bytes:
        path = judge_file(url, self._policy)
        refusal = Refused("The file does not exist or is not under the permitted folder.")
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                # The folder may have changed since the path was judged: judge what was opened.
                opened = Path(os.readlink(f"/proc/self/fd/{file.fileno()}"))
                status = os.fstat(file.fileno())
                assert self._policy.file_root is not None  # judge_file refused otherwise
                if not stat.S_ISREG(status.st_mode) or not opened.is_relative_to(self._policy.file_root.resolve()):
                    raise refusal
                max_bytes = self._limits[kind].size_bytes
                if status.st_size > max_bytes:
                    raise _file_too_large(kind, max_bytes)
                return file.read(max_bytes)
        except OSError:
            raise refusal from None


def _file_too_large(kind: MediaKind, max_bytes: int) -> Exception:
    return media_error(kind, Failure.FILE_TOO_LARGE, f"The {kind} is larger than {max_bytes >> 20} MiB.")
