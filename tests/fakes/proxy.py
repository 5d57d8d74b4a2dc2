"""A TCP proxy that can be cut: bytes stop in both directions and connections stay open, as when a network parts."""

import asyncio
import contextlib


class Proxy:
    """Listens on a free port of this host and forwards to `target_port`."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._is_ending = False
        self._connections: set[asyncio.Task[None]] = set()
        self._pumps: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_ending = True
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._connections)

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        """Nothing passes any more; new connections are taken and not answered."""
        self._is_open.clear()

    def mend(self) -> None:
        """What was held back passes now."""
        self._is_open.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        ends = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            ends.append(far_writer)
            await self._forward(((reader, far_writer), (far_reader, writer)))
        except OSError:
            pass  # Nobody listens there now.
        finally:
            for end in ends:
                end.transport.abort()
                with contextlib.suppress(OSError):
                    await end.wait_closed()
            self._connections.discard(connection)

    async def _forward(self, ways: tuple[tuple[asyncio.StreamReader, asyncio.StreamWriter], ...]) -> None:
        """Until either side ends."""
        pumps = {asyncio.create_task(self._pump(*way)) for way in ways}
        self._pumps |= pumps
        if not self._is_ending:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps)
        self._pumps -= pumps

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._is_open.wait()
                writer.write(data)
                await writer.drain()
