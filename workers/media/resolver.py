"""Host names to addresses that were judged. Resolves, never connects."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult

from workers.media.guard import MediaPolicy, Refused, is_public_address

# Host name -> its addresses. Raises OSError where there are none.
Resolve = Callable[[str], Awaitable[list[str]]]
# Judged address, port -> what is really dialled; tests lead them to a local origin, everybody else changes nothing.
Dial = Callable[[str, int], tuple[str, int]]

TIMEOUT_S = 3.0
_MAX_ADDRESSES = 64
_THREADS = 4


class SystemResolver:
    """getaddrinfo in threads of its own: a name server that does not answer must hold up nothing but downloads."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="media-resolver")

    async def __call__(self, host: str) -> list[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        )
        return [str(address[0]) for *_, address in found]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class JudgingResolver(AbstractResolver):
    """Resolves once, judges every answer, and hands the connector exactly those addresses."""

    def __init__(self, policy: MediaPolicy, resolve: Resolve, dial: Dial) -> None:
        self._policy = policy
        self._lookup = resolve
        self._dial = dial

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        async with asyncio.timeout(TIMEOUT_S):
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
