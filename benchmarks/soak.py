"""Traffic of every kind for a long time, a worker killed now and then: is nothing lost, are pages free, is memory flat?

    python -m benchmarks.soak [--minutes 30] [--clients 8] [--kill-every 60]

Two workers of the demo model. Text, pictures, clips, JSON by a schema, hostile media; one in four clients leaves in the
middle of its stream. Every `--kill-every` seconds (0: never) the younger worker gets SIGKILL: its requests must go on
at the elder, whose memory is watched from beginning to end. Its caches are small, so that they are soon full and what
grows later is none of theirs. A row is taken after each tenth, when all is idle.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import signal
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from benchmarks.daemon import Daemon, serve
from benchmarks.report import write_report
from benchmarks.soak_traffic import OUTCOMES, send

MIB = 1 << 20
CACHE_MIB = 32
HEADER = ["minute", *OUTCOMES, "kills", "kv usage", "fds", "elder worker MiB", "gateway MiB"]


@dataclass
class Soak:
    """What has happened so far. numbers: of the requests to come."""

    daemon: Daemon
    elder: psutil.Process
    numbers: Iterator[int] = field(default_factory=itertools.count)
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    num_kills: int = 0

    async def press(self, num_clients: int, seconds: float, kill_every_s: float) -> None:
        """Traffic of that many clients for so long; ends when the last answer has."""
        ends = time.monotonic() + seconds
        async with (
            httpx.AsyncClient(base_url=self.daemon.base_url, timeout=120) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(num_clients):
                group.create_task(self._ask_until(ends, client))
            if kill_every_s:
                group.create_task(self._kill_until(ends, kill_every_s))

    async def _ask_until(self, ends: float, client: httpx.AsyncClient) -> None:
        while time.monotonic() < ends:
            try:
                outcome = await send(client, next(self.numbers))
            except httpx.HTTPError as error:
                print(f"failed: {error!r}")
                outcome = "failed"
            self.outcomes[outcome] += 1

    async def _kill_until(self, ends: float, every_s: float) -> None:
        while time.monotonic() + every_s < ends:
            await asyncio.sleep(every_s)
            for worker in await asyncio.to_thread(self.daemon.workers):
                if worker.pid != self.elder.pid:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        os.kill(worker.pid, signal.SIGKILL)
                        self.num_kills += 1

    def row(self, minute: float) -> list[Any]:
        """A row of the table, taken while the daemon is idle."""
        usage = sum(float(str(entry["kv_usage"])) for entry in self.daemon.admin())
        num_fds = self.elder.num_fds() + self.daemon.gateway.num_fds()
        memory = [one.memory_info().rss / MIB for one in (self.elder, self.daemon.gateway)]
        return [minute, *self.outcomes.values(), self.num_kills, usage, num_fds, *memory]


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--minutes", type=float, default=30)
    args.add_argument("--clients", type=int, default=8)
    args.add_argument("--kill-every", type=float, default=60)
    asked = args.parse_args()
    tenth_s = asked.minutes * 6
    caches = [f"--{name}-cache-memory={CACHE_MIB}MiB" for name in ("embedding", "media")]
    with serve(["--workers-per-model", "2", *caches]) as daemon:
        soak = Soak(daemon, daemon.workers()[0])
        rows = []
        for tenth in range(1, 11):
            asyncio.run(soak.press(asked.clients, tenth_s, asked.kill_every))
            daemon.wait_until_idle()
            rows.append(soak.row(tenth * tenth_s / 60))
            print(dict(zip(HEADER, rows[-1], strict=True)), flush=True)
    growth = statistics.mean(row[-2] for row in rows[-3:]) - statistics.mean(row[-2] for row in rows[3:6])
    hours = 4 * tenth_s / 3600
    notes = (
        f"{asked.clients} clients. The elder worker's mean resident size of the last three tenths is {growth:+.1f} MiB "
        f"beside that of tenths 4 to 6: {growth / hours:+.0f} MiB an hour; its caches of media and embeddings "
        f"have {CACHE_MIB} MiB each."
    )
    write_report(
        "soak",
        "Soak: traffic of all kinds, early leavers, hostile media, a worker killed now and then",
        notes,
        HEADER,
        rows,
    )


if __name__ == "__main__":
    main()
