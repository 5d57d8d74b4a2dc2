"""A redis-server of one's own: on a free port, in a folder of its own, which can be killed and started again."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

BINARY = shutil.which("redis-server") or shutil.which("valkey-server")
PATIENCE_S = 10.0


class RedisServer:
    """Keeps nothing over a restart, unless `keeps` is set: then it writes an append-only file."""

    def __init__(self, folder: Path, *, keeps: bool = False) -> None:
        self._folder = folder
        self._keeps = keeps
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> Redis:
        """A client for looking in from outside."""
        return Redis.from_url(self.url, protocol=2)

    def start(self) -> None:
        """Returns once it answers."""
        assert BINARY is not None
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self._folder, "save": "", "appendonly": "no"}
        if self._keeps:
            options |= {"appendonly": "yes", "appendfsync": "always"}
        argv = [BINARY, *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE_S
        with contextlib.closing(self.client()) as client:
            while not _answers(client):
                assert self._process.poll() is None, "redis-server ended at its start"
                assert time.monotonic() < deadline, "redis-server does not answer"
                time.sleep(0.01)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self, is_frozen: bool) -> None:
        """SIGSTOP or SIGCONT: connections stay open and nothing is answered."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP if is_frozen else signal.SIGCONT)


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


@contextlib.contextmanager
def redis_server(*, keeps: bool = False) -> Iterator[RedisServer]:
    """A running server, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="gl") as folder:
        server = RedisServer(Path(folder), keeps=keeps)
        server.start()
        try:
            yield server
        finally:
            server.kill()
