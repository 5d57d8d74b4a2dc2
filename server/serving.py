"""The HTTP server of one gateway process, from its socket to its last answer.

Leaving, in order: report not ready and refuse new requests, let running ones end, stop listening. A second signal ends
the process at once.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Self, cast

import uvicorn
from fastapi import FastAPI

from schemas.allocator import give_back_buffers
from server.http_crowd import Crowd
from server.http_protocol import HttpPatience, HttpProtocol

log = logging.getLogger(__name__)

BACKLOG = 2048
KEEP_ALIVE_S = 75
LAST_CONNECTIONS_S = 5
"""How long connections get to close once no request runs any more."""
POLL_S = 0.05
BUFFER_BYTES = 2 * 2**20
"""What is at least this large goes back to the system at once: bodies with media, and messages that carry them."""
YOUNG_OBJECTS = 10_000
"""After so many new ones that stay, garbage is looked for."""
EXIT_IMPATIENT = 1
USER_TIMEOUT_S = 30
"""How long a peer may acknowledge nothing of what it was sent, before the kernel takes it for gone."""
UNSENT_BYTES = 128 * 1024
"""What the kernel holds of an answer besides what is on its way, so that a client that does not read is noticed."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError, with the address in its text, when it cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        code = error.errno or 0
        reason = os.strerror(code) if code > 0 else error.strerror
        raise OSError(f"cannot listen on {host}:{port}: {reason}") from error
    # Connections that are accepted inherit these.
    for option, value in (("TCP_USER_TIMEOUT", USER_TIMEOUT_S * 1000), ("TCP_NOTSENT_LOWAT", UNSENT_BYTES)):
        if hasattr(socket, option):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return listener


def url_of(listener: socket.socket) -> str:
    """Where clients on this machine find it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Serving:
    """`async with Serving(...)`: requests are answered inside, until `asked_to_stop` and `drain`.

    end_now: called on the second signal, before the process ends.
    """

    def __init__(self, app: FastAPI, listener: socket.socket, crowd: Crowd, end_now: Callable[[], None]) -> None:
        self._app = app
        self._listener = listener
        self._end_now = end_now
        self._server = Server(http_config(app, crowd))
        self._is_asked = asyncio.Event()

    async def __aenter__(self) -> Self:
        give_back_buffers(BUFFER_BYTES)
        # What is there by now stays; looked through by every full collection, it would hold up all streams for 50 ms.
        gc.collect()
        gc.freeze()
        # The rest is mostly events on their way, which are not garbage, however often one looks.
        gc.set_threshold(YOUNG_OBJECTS)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        if self._app.state.keys.has_file:
            loop.add_signal_handler(signal.SIGHUP, self._app.state.keys.reload)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        await self._task

    async def asked_to_stop(self) -> None:
        """Returns at the first signal, or when the server ended by itself."""
        asked = asyncio.create_task(self._is_asked.wait())
        await asyncio.wait({asked, self._task}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests and wait for the running ones, at most so long."""
        self._app.state.fleet.is_draining = True
        log.info("stopping: %d requests still run", self._server.num_requests)
        try:
            async with asyncio.timeout(timeout_s):
                while self._server.num_requests:
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            log.warning("%d requests did not end within %.0f s", self._server.num_requests, timeout_s)

    def _on_signal(self) -> None:
        if self._is_asked.is_set():
            self._end_now()
            os._exit(EXIT_IMPATIENT)
        self._is_asked.set()


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: when to leave is decided above."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @property
    def num_requests(self) -> int:
        return len(self.server_state.tasks)


def http_config(app: FastAPI, crowd: Crowd, patience: HttpPatience | None = None) -> uvicorn.Config:
    """How uvicorn is to serve the application."""
    protocol = partial(HttpProtocol, crowd=crowd, patience=patience or HttpPatience())
    return uvicorn.Config(
        app,
        http=cast("type[asyncio.Protocol]", protocol),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=LAST_CONNECTIONS_S,
    )
