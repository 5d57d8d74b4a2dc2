"""`python -m workers MODEL`: one worker process.

Exit codes: 0 drained, 1 the backend failed, 2 bad settings, 3 the model cannot be loaded (restarting is useless).
"""

import asyncio
import logging
import os
import platform
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable

from schemas.allocator import give_back_buffers
from schemas.control import Hello
from schemas.flags import ConfigError
from schemas.logs import configure_logging
from schemas.redis_names import is_redis
from workers.handlers.base import FatalError, JobHandler, ModelLoadError
from workers.health import die_with_parent, leave_with_parent
from workers.settings import WorkerSettings, bound_spinning, parse_command_line
from workers.transport.base import JobSource
from workers.watchdog import Watchdog
from workers.worker import Worker

EXIT_FAILED, EXIT_BAD_SETTINGS, EXIT_CANNOT_LOAD = 1, 2, 3

BUFFER_BYTES = 16 * 2**20
"""What is at least this large goes back to the system at once: jobs with media; smaller ones are a step's tensors."""

CLOSE_S = 8.0
"""How long the backend may take to stop; less than `serve` gives a worker to leave."""

log = logging.getLogger("workers")


OpenHandler = Callable[[WorkerSettings], Awaitable[JobHandler]]


def main(argv: list[str], open_handler: OpenHandler | None = None) -> int:
    """The process's life; its exit code. `open_handler` loads the model; None: the one that loads checkpoints."""
    if argv == ["--doctor"]:
        from workers.doctor import report

        print(report())
        return 0
    if argv in (["--list-families"], ["--list-families", "--json"]):
        from workers.catalogue.listing import as_json, as_text

        print(as_json() if argv[1:] else as_text())
        return 0
    try:
        settings = parse_command_line(argv)
        source = open_source(settings.queue_address)
    except ConfigError as error:
        print(f"glimpsed worker: {error}", file=sys.stderr)
        return EXIT_BAD_SETTINGS
    configure_logging(settings.log_level, settings.log_format, f"worker[{os.getpid()}]")
    bound_spinning()
    give_back_buffers(BUFFER_BYTES)
    if settings.supervisor_pid is not None:
        die_with_parent(settings.supervisor_pid)
    try:
        asyncio.run(serve(settings, source, open_handler or _open_checkpoint))
    except ModelLoadError as error:
        print(f"glimpsed worker: {error}", file=sys.stderr)
        return EXIT_CANNOT_LOAD
    except (FatalError, ConnectionError) as error:
        log.error("ends: %s", error)
        return EXIT_FAILED
    return 0


def open_source(address: str) -> JobSource:
    """The worker's end of the queue with this URL. Raises ConfigError."""
    if is_redis(address):
        try:
            from workers.transport.redis_streams import RedisSource
        except ImportError:
            raise ConfigError("--queue: redis:// needs the package redis: pip install 'glimpsed[redis]'") from None
        return RedisSource(address)
    if address.startswith("ipc://") and len(address) > len("ipc://"):
        from workers.transport.zeromq import ZeroMQSource

        return ZeroMQSource(address)
    raise ConfigError("--queue: neither local, ipc://PATH nor redis://HOST[:PORT][/DB]")


async def serve(settings: WorkerSettings, source: JobSource, open_handler: OpenHandler) -> None:
    """Load the model, then work until drained. Raises ModelLoadError, FatalError."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # While it loads, a thread is inside the model's code and cannot be asked to stop; nothing is lost by leaving.
        loop.add_signal_handler(number, os._exit, 0)
    # A worker that was started by hand may outlive the shell that it came from.
    parent_watch = asyncio.create_task(leave_with_parent(settings.supervisor_pid)) if settings.supervisor_pid else None
    handler = await open_handler(settings)
    watching, code_without_backend = None, EXIT_FAILED
    if settings.watchdog_timeout != 0:
        watching = asyncio.create_task(Watchdog(handler, settings.watchdog_timeout).watch())
    try:
        pid = os.getpid()
        worker_id = f"worker-{pid}-{secrets.token_hex(4)}"
        hello = Hello(worker_id=worker_id, pid=pid, card=handler.card, host=platform.node(), seats=settings.max_jobs)
        worker = Worker(source, handler, hello, settings.max_jobs, drain_s=settings.shutdown_timeout)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _drain_or_leave, worker)
        await worker.run()
        code_without_backend = 0
    finally:
        if parent_watch is not None:
            parent_watch.cancel()
        await _close(handler, code_without_backend)
        if watching is not None:
            watching.cancel()


async def _close(handler: JobHandler, exit_code: int) -> None:
    """Close it, or leave without: a thread that hangs would keep the process for ever."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await handler.close()
    except TimeoutError:
        log.error("the backend does not stop within %.0f s; this process ends without it", CLOSE_S)
        os._exit(exit_code)


async def _open_checkpoint(settings: WorkerSettings) -> JobHandler:
    from workers.handlers.open import open_handler

    return await open_handler(settings)


def _drain_or_leave(worker: Worker) -> None:
    if worker.is_draining:
        os._exit(EXIT_FAILED)
    worker.drain()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
