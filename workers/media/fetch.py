"""The bytes behind a URL. The only module of the daemon that opens a connection or a file for a client.

Every hop of an http URL is judged by `guard`; the addresses that were judged are the ones that are dialled, with the
client's host name kept for Host and TLS. Nothing is sent but a plain GET: no cookie, credential, proxy or referrer.
"""

import asyncio
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from workers.media.data_url import decode_data_url
from workers.media.failures import Failure, media_error
from workers.media.guard import MediaPolicy, Refused, is_public_address, judge_file, judge_url
from workers.media.types import MediaKind

# Host name -> its addresses. Raises OSError where there are none.
Resolve = Callable[[str], Awaitable[list[str]]]
# Judged address, port -> what is really dialled; tests lead them to a local origin, everybody else changes nothing.
Dial = Callable[[str, int], tuple[str, int]]

MAX_REDIRECTS = 3
CONNECT_TIMEOUT_S = 3.0
MAX_CONNECTIONS_PER_HOST = 8
_MAX_ADDRESSES = 64
_RESOLVER_THREADS = 4
_CHUNK_BYTES = 64 << 10
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "glimpsed"}


@dataclass(frozen=True)
class FetchLimits:
    """Of one download, redirects and a second attempt included."""

    total_s: float
    size_bytes: int


LIMITS = {
    MediaKind.IMAGE: FetchLimits(total_s=10.0, size_bytes=20 << 20),
    MediaKind.VIDEO: FetchLimits(total_s=30.0, size_bytes=100 << 20),
}


class Fetcher:
    """`start()` and `close()` on the event loop that `fetch()` is called on."""

    def __init__(
        self,
        policy: MediaPolicy,
        resolve: Resolve | None = None,
        dial: Dial = lambda address, port: (address, port),
        limits: dict[MediaKind, FetchLimits] | None = None,
    ) -> None:
        self._policy = policy
        self._resolve = resolve
        self._dial = dial
        self._limits = limits or LIMITS
        self._resolver_threads: ThreadPoolExecutor | None = None
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        # Its own threads: a resolver that does not answer must not hold up anything but downloads.
        self._resolver_threads = ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="media-resolver")
        resolver = _JudgingResolver(self._policy, self._resolve or self._system_resolve, self._dial)
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
        if self._resolver_threads is not None:
            self._resolver_threads.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, url: str, kind: MediaKind) -> bytes:
        """The content, never empty. Raises MediaError without `param`: not allowed, not there, too slow, too large."""
        scheme = url[:5].lower()
        try:
            if scheme == "data:":
                content = await decode_data_url(url, kind, self._limits[kind].size_bytes)
            elif scheme == "file:":
                content = await asyncio.to_thread(self._read_file, url, kind)
            else:
                content = await self._download(judge_url(url, self._policy), kind)
        except Refused as refusal:
            raise media_error(kind, Failure.URL, str(refusal)) from refusal
        if not content:
            raise media_error(kind, Failure.EMPTY, f"The {kind} is empty.")
        return content

    async def _download(self, url: URL, kind: MediaKind) -> bytes:
        total_s = self._limits[kind].total_s
        try:
            async with asyncio.timeout(total_s):
                return await self._follow(url, kind)
        except TimeoutError as error:
            message = f"The {kind} could not be downloaded within {total_s:g} seconds."
            raise media_error(kind, Failure.DOWNLOAD, message) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise media_error(kind, Failure.DOWNLOAD, f"The {kind} could not be downloaded.") from error

    async def _follow(self, url: URL, kind: MediaKind) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            async with await self._request(url) as response:
                if response.status not in _REDIRECTS:
                    return await self._body(response, kind)
                url = self._next_hop(url, response, kind)
        raise media_error(kind, Failure.DOWNLOAD, f"The URL redirects more than {MAX_REDIRECTS} times.")

    async def _request(self, url: URL) -> aiohttp.ClientResponse:
        """A second attempt follows a lost connection or a 5xx answer, no third."""
        assert self._session is not None, "start() comes first"
        try:
            response = await self._session.get(url, allow_redirects=False)
            if response.status < 500:
                return response
            response.close()
        except aiohttp.ClientConnectorDNSError:
            raise
        except aiohttp.ClientConnectionError:
            pass
        return await self._session.get(url, allow_redirects=False)

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
        max_bytes = self._limits[kind].size_bytes
        if (response.content_length or 0) > max_bytes:
            raise _file_too_large(kind, max_bytes)
        chunks, size = [], 0
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            size += len(chunk)
            if size > max_bytes:
                raise _file_too_large(kind, max_bytes)
            chunks.append(chunk)
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

    async def _system_resolve(self, host: str) -> list[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._resolver_threads, lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        )
        return [str(address[0]) for *_, address in found]


class _JudgingResolver(AbstractResolver):
    """Resolves once, judges every answer, and hands the connector exactly those addresses."""

    def __init__(self, policy: MediaPolicy, resolve: Resolve, dial: Dial) -> None:
        self._policy = policy
        self._lookup = resolve
        self._dial = dial

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            addresses = list(dict.fromkeys(await self._lookup(host)))
        if not addresses or len(addresses) > _MAX_ADDRESSES:
            raise OSError("no address, or too many to be honest")
        if not self._policy.exempts(host.lower(), port) and not all(is_public_address(each) for each in addresses):
            raise Refused("The URL's host is not allowed.")
        return [self._answer(host, *self._dial(address, port)) for address in addresses]

    @staticmethod
    def _answer(host: str, address: str, port: int) -> ResolveResult:
        is_v6 = ":" in address
        return ResolveResult(
            hostname=host,
            host=address,
            port=port,
            family=socket.AF_INET6 if is_v6 else socket.AF_INET,
            proto=socket.IPPROTO_TCP,
            flags=socket.AI_NUMERICHOST,
        )

    async def close(self) -> None:
        pass


def _file_too_large(kind: MediaKind, max_bytes: int) -> Exception:
    return media_error(kind, Failure.FILE_TOO_LARGE, f"The {kind} is larger than {max_bytes >> 20} MiB.")
