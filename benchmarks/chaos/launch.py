"""The system under test: a daemon with a temporary folder of its own, over either transport."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from redis import Redis

from benchmarks.chaos import rest
from benchmarks.daemon import Daemon, serve
from benchmarks.guard import dying_with_us
from tests.fakes.redis_server import redis_server

MODULES = {"fake": "benchmarks.chaos.fake_daemon", "demo": "server.cli"}


@dataclass(frozen=True, slots=True)
class Rig:
    """A running daemon. `folder`: for its temporary files."""

    daemon: Daemon
    models: list[str]
    folder: Path
    redis: Redis | None

    def figures(self) -> dict[str, float]:
        """What the system holds now."""
        figures = rest.of_daemon(self.daemon, self.folder)
        if self.redis is None:
            return figures
        # Connections to Redis are kept for the next use: their number is bounded, and grows with what was ever at once.
        port = self.redis.connection_pool.connection_kwargs["port"]
        held = self.daemon.gateway.net_connections("tcp")
        figures["files open in the gateway"] -= sum(bool(one.raddr) and one.raddr.port == port for one in held)
        return figures | rest.of_redis(self.redis, self.models)

    def remains(self) -> dict[str, float]:
        """What is left of it once its process has ended."""
        figures: dict[str, float] = {"temporary files": sum(1 for _ in self.folder.rglob("*"))}
        return figures | rest.of_redis(self.redis, self.models) if self.redis is not None else figures


@contextlib.contextmanager
def queue(transport: str) -> Iterator[tuple[str, Redis | None]]:
    """The value of --queue, and a client for looking in where it is a Redis."""
    if transport == "local":
        yield "local", None
        return
    with (
        dying_with_us() as group,
        redis_server(process_group=group) as server,
        contextlib.closing(server.client()) as client,
    ):
        yield server.url, client


@contextlib.contextmanager
def running(
    kind: str, models: Sequence[str], num_workers: int, where: tuple[str, Redis | None], log: IO[bytes]
) -> Iterator[Rig]:
    """`glimpsed serve` with so many workers of each model. kind: fake or demo. Its stderr goes to the log."""
    url, redis = where
    specs = [f"{model}=fake" for model in models] if kind == "fake" else []
    with tempfile.TemporaryDirectory(prefix="gl") as parent:
        folder = Path(parent) / "tmp"
        folder.mkdir()
        environment = {**os.environ, "TMPDIR": str(folder), "XDG_STATE_HOME": str(Path(parent) / "state")}
        arguments = [*specs, "--workers-per-model", str(num_workers), "--queue", url]
        with serve(arguments, MODULES[kind], environment, log) as daemon:
            yield Rig(daemon, list(models), folder, redis)
