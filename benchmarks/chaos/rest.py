"""What the system holds while nobody asks anything, to be compared before and after: whatever has grown is a leak."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
from redis import Redis
from redis.exceptions import ResponseError

from benchmarks.chaos.history import Kind, Violation
from benchmarks.daemon import Daemon
from schemas import redis_names as names

Figures = Mapping[str, float]

PATIENCE_S = 15.0 + names.LINE_TTL_S
"""How long the system may take to come to rest: leases, heartbeats and closed connections have their time, and so has
the own line of a worker that was killed."""
POLL_S = 0.25
NO_END = -1
"""What Redis says of a key that does not expire."""


def of_daemon(daemon: Daemon, folder: Path) -> dict[str, float]:
    """Of the gateway and its workers. `folder`: where they keep their temporary files, and nobody else does."""
    # First, while no connection of the questions below is open.
    num_files, num_threads = daemon.gateway.num_fds(), daemon.gateway.num_threads()
    workers = daemon.admin()
    processes = [process for process in map(_process, daemon.gateway.children()) if process is not None]
    return {
        "jobs in workers": sum(float(str(one["running"])) + float(str(one["waiting"])) for one in workers),
        "share of pages": sum(float(str(one["kv_usage"])) for one in workers),
        "jobs in the queue": daemon.metric("glimpsed_queue_depth"),
        "answers open": daemon.metric("glimpsed_http_in_flight"),
        "files open in the gateway": num_files,
        "threads of the gateway": num_threads,
        "processes": len(processes),
        "files open in a worker": max((fds for fds, _ in processes), default=0),
        "threads of a worker": max((threads for _, threads in processes), default=0),
        "temporary files": sum(1 for _ in folder.rglob("*")),
    }


def _process(process: psutil.Process) -> tuple[int, int] | None:
    """Files and threads; None where it has ended meanwhile. One that ended and was not waited for counts with none."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return 0, 0
        return process.num_fds(), process.num_threads()
    except psutil.NoSuchProcess:
        return None


def of_redis(client: Redis, models: list[str]) -> dict[str, float]:
    """Of the queue in Redis: pointers that were read and not followed, jobs, mailboxes. Lines are all of a model's,
    also those of workers that are gone."""
    common = [line for model in models for line in names.lines_of(model)]
    own = [line.decode() for model in models for line in client.scan_iter(names.own_line(model, "*"), count=1000)]
    lines = common + own
    return {
        "pointers read and not followed": sum(_num_pending(client, line) for line in lines),
        "pointers in lines": sum(client.xlen(line) for line in lines),
        "lines that never end": sum(client.pttl(line) == NO_END for line in lines),
        "jobs in Redis": sum(1 for _ in client.scan_iter("glimpsed:*:job:*", count=1000)),
        "mailboxes": sum(1 for kind in ("gateway", "worker") for _ in client.scan_iter(f"glimpsed:{kind}:*")),
    }


def _num_pending(client: Redis, line: str) -> int:
    try:
        return int(client.xpending(line, names.GROUP)["pending"])
    except ResponseError:
        return 0  # No such line, or nobody has read it yet.


def least(observe: Callable[[], Figures], num_looks: int = 5, poll_s: float = POLL_S) -> dict[str, float]:
    """Each figure at its smallest: a question that was under way at one look was not at all of them."""
    looks = []
    for _ in range(num_looks):
        looks.append(observe())
        time.sleep(poll_s)
    return {name: min(look[name] for look in looks) for name in looks[0]}


def leaks(before: Figures, after: Figures) -> list[Violation]:
    """All that has grown."""
    return [
        Violation(Kind.LEAK, f"{name}: {before.get(name, 0):g} before, {value:g} after")
        for name, value in after.items()
        if value > before.get(name, 0)
    ]


def leaks_at_rest(
    before: Figures, observe: Callable[[], Figures], patience_s: float = PATIENCE_S, poll_s: float = POLL_S
) -> list[Violation]:
    """What is still more than before when the patience ends; returns as soon as nothing is."""
    deadline = time.monotonic() + patience_s
    while (found := leaks(before, observe())) and time.monotonic() < deadline:
        time.sleep(poll_s)
    return found
