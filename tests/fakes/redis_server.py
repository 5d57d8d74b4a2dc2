"""A redis-server of one's own: on a free port, in a folder of its own, which can be killed and started again."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from tests.fakes.ports import free_port

BINARIES = {name: shutil.which(f"{name}-server") for name in ("redis", "valkey")}
BINARY = BINARIES["redis"] or BINARIES["valkey"]
PATIENCE_S = 10.0

ALWAYS = {"appendonly": "yes", "appendfsync": "always"}
"""Options of a server that keeps all it has answered."""
EVERY_SECOND = {"appendonly": "yes", "appendfsync": "everysec"}
"""Options of a server that keeps all but its last second."""


class RedisServer:
    """Keeps nothing over a restart, unless the options say so. query: what its URL ends with. process_group: None for
    this process's own."""

    def __init__(
        self,
        folder: Path,
        binary: str,
        options: Mapping[str, object] | None = None,
        query: str = "",
        process_group: int | None = None,
    ) -> None:
        self._folder = folder
        self._binary = binary
        self._query = query
        self._process_group = process_group
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        is_tls = "tls-cert-file" in (options or {})
        self._scheme = "rediss" if is_tls else "redis"
        ports = {"port": 0, "tls-port": self.port} if is_tls else {"port": self.port}
        kept = {"bind": "127.0.0.1", "dir": folder, "save": "", "appendonly": "no"}
        self._options: dict[str, object] = {**kept, **ports, **(options or {})}

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}/0{self._query}"

    def client(self) -> Redis:
        """A client for looking in from outside."""
        return Redis.from_url(self.url, protocol=2)

    def start(self) -> None:
        """Returns once it answers."""
        argv = [self._binary, *(word for name, value in self._options.items() for word in (f"--{name}", str(value)))]
        # As here, a file that may not grow is an error for it (see `fill_disk`) and no signal that ends it.
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            restore_signals=False,
            process_group=self._process_group,
        )
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

    def fill_disk(self, is_full: bool) -> None:
        """Let none of its files grow beyond the largest of them, or let them grow again."""
        assert self._process is not None
        _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
        largest = max((path.stat().st_size for path in self._folder.rglob("*") if path.is_file()), default=0)
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (largest if is_full else hard, hard))


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


@contextlib.contextmanager
def redis_server(
    binary: str | None = BINARY,
    options: Mapping[str, object] | None = None,
    query: str = "",
    process_group: int | None = None,
) -> Iterator[RedisServer]:
    """A running server, gone at the end."""
    assert binary is not None
    with tempfile.TemporaryDirectory(prefix="gl") as folder:
        server = RedisServer(Path(folder), binary, options, query, process_group)
        server.start()
        try:
            yield server
        finally:
            server.kill()
