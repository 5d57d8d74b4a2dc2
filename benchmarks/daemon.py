"""A daemon to measure: started as a user starts it, stopped at the end, its processes and figures at hand."""

import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import httpx
import psutil

from benchmarks.guard import dying_with_us

READY_S = 300.0


@dataclass(frozen=True)
class Daemon:
    """A running `glimpsed serve`; `ready_s` is how long it took until /readyz said so."""

    process: subprocess.Popen[bytes]
    url: str
    ready_s: float

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def gateway(self) -> psutil.Process:
        return psutil.Process(self.process.pid)

    def workers(self) -> list[psutil.Process]:
        return [psutil.Process(worker["pid"]) for worker in self.admin()]

    def admin(self) -> list[dict[str, object]]:
        """What /admin/workers says."""
        return httpx.get(f"{self.url}/admin/workers").json()["workers"]

    def metric(self, name: str) -> float:
        """The sum of a metric's samples over its labels."""
        text = httpx.get(f"{self.url}/metrics").text
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))

    def wait_until_idle(self) -> None:
        """Until every worker says that it holds nothing."""
        while any(worker["running"] or worker["waiting"] or worker["kv_usage"] for worker in self.admin()):
            time.sleep(0.1)


@contextlib.contextmanager
def serve(
    arguments: Sequence[str],
    module: str = "server.cli",
    environment: Mapping[str, str] | None = None,
    log: IO[bytes] | None = None,
) -> Iterator[Daemon]:
    """`glimpsed serve` with these arguments, on a free port. Raises RuntimeError when it does not get ready.

    module: what is run as `glimpsed`. environment: None inherits this process's. log: for its stderr.
    """
    port = free_port()
    began = time.monotonic()
    command = [sys.executable, "-m", module, "serve", *arguments, "--port", str(port), "--log-level", "warning"]
    url = f"http://127.0.0.1:{port}"
    with dying_with_us() as group:
        process = subprocess.Popen(command, env=environment, stderr=log, process_group=group)
        try:
            wait_until(lambda: _is_ready(url), process)
            yield Daemon(process, url, time.monotonic() - began)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def wait_until(is_ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Poll a server's readiness. Raises RuntimeError when its process ends or the time is over."""
    deadline = time.monotonic() + READY_S
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server did not get ready: {process.args!r}")
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False
