"""`glimpsed serve` as a user starts it, on a free port, until it is ready; and a client's view of it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import httpx
from openai import OpenAI

from tests.fakes.ports import free_port

START_S = 300


@dataclass
class Daemon:
    """A running daemon. `workers()` is what /admin/workers says. http: for short questions, often."""

    process: subprocess.Popen[bytes]
    url: str
    http: httpx.Client

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def client(self, **kwargs: Any) -> OpenAI:
        return OpenAI(base_url=self.base_url, api_key="unused", timeout=120, max_retries=0, **kwargs)

    def workers(self) -> list[dict[str, Any]]:
        return self.http.get("/admin/workers").json()["workers"]

    def wait_until_idle(self) -> None:
        """Until every worker says that it holds nothing; workers report about once a second."""
        deadline = time.monotonic() + 10
        while any(worker["running"] or worker["waiting"] or worker["kv_usage"] for worker in self.workers()):
            assert time.monotonic() < deadline, f"still busy: {self.workers()}"
            time.sleep(0.05)

    def stop(self) -> int:
        """SIGTERM, then the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def serve(
    arguments: Sequence[str],
    env: dict[str, str] | None = None,
    log: IO[bytes] | None = None,
    module: str = "server.cli",
) -> Iterator[Daemon]:
    """Start `glimpsed serve` with these arguments; stop it at the end, whatever happened. log: for its stderr.
    module: what is run as `glimpsed`."""
    port = free_port()
    command = [sys.executable, "-m", module, "serve", *arguments, "--port", str(port)]
    process = subprocess.Popen(command, env={**os.environ, **(env or {})}, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        # `httpx.get` reads all certificates each time: 20 ms that a daemon's start could use.
        with httpx.Client(base_url=url, verify=False, limits=httpx.Limits(max_keepalive_connections=0)) as http:
            daemon = Daemon(process, url, http)
            wait_until_ready(daemon)
            yield daemon
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(daemon: Daemon) -> None:
    """Until /readyz says 200. Fails when the process ends before."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert daemon.process.poll() is None, f"the daemon ended with {daemon.process.returncode} before it was ready"
        with contextlib.suppress(httpx.TransportError):
            if daemon.http.get("/readyz").status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"not ready after {START_S} s")
