"""Which transport a `--queue` value means."""

from pathlib import Path
from typing import Protocol

from schemas.flags import ConfigError
from schemas.redis_names import is_redis
from server.transport.answers import RESUME_WINDOW_S
from server.transport.base import JobQueue
from server.transport.zeromq import ZeroMQQueue


class SupervisedQueue(JobQueue, Protocol):
    """A queue some of whose workers are watched as processes of this host."""

    def local_pids(self) -> set[int]:
        """The processes, on this host, of workers that live."""
        ...

    def worker_died(self, pid: int) -> None:
        """The supervisor saw this process end: report its jobs now, without waiting for the lease."""
        ...


def open_queue(
    url: str, local: Path, max_queue: int, affinity_margin: float = 0.0, resume_window_s: float = RESUME_WINDOW_S
) -> tuple[SupervisedQueue, str]:
    """The queue, and the URL by which workers on this host find it; `local` is where `--queue local` is.
    max_queue: jobs that may wait for one model. affinity_margin: see Affinity. resume_window_s: how long answers are
    kept for other gateways. Raises ConfigError."""
    if is_redis(url):
        try:
            from server.transport.redis_streams import RedisQueue
        except ImportError:
            raise ConfigError("--queue: redis:// needs the package redis: pip install 'glimpsed[redis]'") from None
        return RedisQueue(url, max_queue, affinity_margin=affinity_margin, resume_window_s=resume_window_s), url
    if url == "local":
        return ZeroMQQueue(local, max_queue, affinity_margin=affinity_margin), f"ipc://{local}"
    if url.startswith("ipc://") and len(url) > len("ipc://"):
        path = Path(url.removeprefix("ipc://"))
        return ZeroMQQueue(path, max_queue, affinity_margin=affinity_margin), url
    raise ConfigError("--queue: neither local, ipc://PATH nor redis://HOST[:PORT][/DB]")
