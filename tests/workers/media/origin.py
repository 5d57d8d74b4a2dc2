"""A web server on loopback behind a made-up name with a public address.

The guard is not weakened: a fake resolver gives the name a global address, the guard judges that, and only the
innermost dial function leads it here.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType

from aiohttp import web

from workers.media.fetch import Fetcher, FetchLimits
from workers.media.guard import MediaPolicy
from workers.media.types import MediaKind

PUBLIC_ADDRESS = "93.184.215.14"
HOST = "media.example.com"
SMALL_LIMITS = {
    MediaKind.IMAGE: FetchLimits(total_s=5.0, size_bytes=64 << 10),
    MediaKind.VIDEO: FetchLimits(total_s=5.0, size_bytes=128 << 10),
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
RawHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Origin:
    """`serve(path, handler)` adds a page; `serve_raw` answers every connection with bytes of one's own."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._raw: RawHandler | None = None
        self._raw_tasks: set[asyncio.Task[None]] = set()
        self.requests: list[web.BaseRequest] = []
        self.num_connections = 0
        self.lookups: Counter[str] = Counter()
        self.names: dict[str, list[str]] = {HOST: [PUBLIC_ADDRESS]}

    async def __aenter__(self) -> "Origin":
        self._web = web.Server(self._handle)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._raw_tasks:
            task.cancel()
        await asyncio.gather(*self._raw_tasks, return_exceptions=True)
        await self._web.shutdown(0.1)
        await self._server.wait_closed()

    def serve(self, path: str, handler: Handler) -> str:
        """The page's URL."""
        self._handlers[path] = handler
        return f"http://{HOST}{path}"

    def serve_raw(self, handler: RawHandler) -> str:
        self._raw = handler
        return f"http://{HOST}/raw"

    def fetcher(self, policy: MediaPolicy | None = None, **limits: float) -> Fetcher:
        """Not started. `limits`: total_s of pictures and clips, if another."""
        chosen = {
            kind: FetchLimits(limits.get("total_s", limit.total_s), limit.size_bytes)
            for kind, limit in SMALL_LIMITS.items()
        }
        return Fetcher(policy or MediaPolicy(), self.resolve, self.dial, chosen)

    async def resolve(self, host: str) -> list[str]:
        self.lookups[host] += 1
        if host not in self.names:
            raise OSError("no such name")
        return self.names[host]

    def dial(self, address: str, port: int) -> tuple[str, int]:
        return ("127.0.0.1", self._port) if address == PUBLIC_ADDRESS else (address, port)

    def _protocol(self) -> asyncio.BaseProtocol:
        self.num_connections += 1
        if self._raw is None:
            return self._web()
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(), self._start_raw)

    def _start_raw(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._run_raw(reader, writer))
        self._raw_tasks.add(task)
        task.add_done_callback(self._raw_tasks.discard)

    async def _run_raw(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._raw is not None
        try:
            await self._raw(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        handler = self._handlers.get(request.path)
        return await handler(request) if handler else web.Response(status=404)


class Canary:
    """A listener on loopback that nobody may reach."""

    num_hits = 0

    async def __aenter__(self) -> "Canary":
        self._server = await asyncio.start_server(self._count, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _count(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_hits += 1
        writer.close()


def answer(body: bytes, status: int = 200, **headers: str) -> Handler:
    """A page of fixed bytes; `Content_Type` stands for `Content-Type`."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}

    async def handle(_: web.Request) -> web.Response:
        return web.Response(body=body, status=status, headers=sent)

    return handle


def redirect(location: str, status: int = 302) -> Handler:
    return answer(b"", status, Location=location)
