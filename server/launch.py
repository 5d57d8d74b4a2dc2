"""Puts a gateway process together from its settings: the queue, the application, for `serve` the workers."""

import asyncio
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fastapi import FastAPI

from schemas.redis_names import is_redis
from server.app import GatewayLimits, create_app
from server.batches.build import BatchLimits
from server.files.database import check_database
from server.files.folder import data_folder
from server.files.store import FileLimits
from server.http_crowd import Crowd, fit_to_open_files
from server.limits.key_limits import KeyLimits
from server.limits.sharing import SharedBuckets
from server.serving import Serving, listen, url_of
from server.settings import (
    GatewaySettings,
    ModelSpec,
    ServeSettings,
    local_queue_path,
    state_folder,
    worker_environment,
)
from server.supervise import Supervisor, WorkerCommand
from server.transport.base import JobQueue
from server.transport.open import open_queue

log = logging.getLogger(__name__)

WORKER_DRAIN_S = 10.0
"""How long workers get to leave once no request runs any more; their last events are out by then."""


async def run_gateway(settings: GatewaySettings) -> None:
    """`glimpsed gateway`: workers come and go by themselves. Raises ConfigError, OSError when it cannot listen."""
    queue, _ = open_queue(
        settings.queue, local_queue_path(), settings.max_queue, settings.affinity_margin, settings.resume_window
    )
    with listen(settings.host, settings.port) as listener, _data_folder(settings) as data_dir:
        app = _create_app(settings, queue, data_dir, expected_models=())
        async with Serving(app, listener, _crowd(settings), end_now=lambda: None) as serving:
            log.info("listening on %s; models are those of the workers that come", url_of(listener))
            await serving.asked_to_stop()
            await serving.drain(settings.shutdown_timeout)
            await queue.close()


async def run_serve(
    settings: ServeSettings, specs: Sequence[ModelSpec], worker_arguments: Sequence[str], worker_module: str
) -> None:
    """`glimpsed serve`: a gateway and its workers. Raises ConfigError, OSError when it cannot listen, WorkersFailed."""
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="glimpsed-") as folder,
        listen(settings.host, settings.port) as listener,
        _data_folder(settings) as data_dir,
    ):
        queue, address = open_queue(
            settings.queue,
            Path(folder) / "queue",
            settings.max_queue,
            settings.affinity_margin,
            settings.resume_window,
        )
        app = _create_app(settings, queue, data_dir, expected_models=[spec.name for spec in specs])
        supervisor = Supervisor(
            [
                WorkerCommand(
                    spec.name,
                    _worker_argv(worker_module, spec, worker_arguments),
                    worker_environment(address),
                )
                for spec in specs
                for _ in range(settings.workers_per_model)
            ],
            ready_pids=queue.local_pids,
            on_death=queue.worker_died,
        )
        names = ", ".join(spec.name for spec in specs)
        async with Serving(app, listener, _crowd(settings), end_now=supervisor.kill) as serving:
            log.info("listening on %s; loading %s", url_of(listener), names)
            supervising = asyncio.create_task(supervisor.run())
            greeting = asyncio.create_task(_greet(supervisor, f"{url_of(listener)} serves {names}", began))
            stopping = asyncio.create_task(serving.asked_to_stop())
            try:
                await asyncio.wait({supervising, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if supervising.done():
                    await supervising
                await serving.drain(settings.shutdown_timeout)
                await supervisor.stop(WORKER_DRAIN_S)
            finally:
                # Answers that still run end with an error now, and not when their connections are cut.
                await queue.close()
                await _cancel(greeting, stopping, supervising)


def _crowd(settings: GatewaySettings) -> Crowd:
    possible = fit_to_open_files(settings.max_connections)
    if possible < settings.max_connections:
        log.warning("only %d connections at a time: this process may not open more files", possible)
    return Crowd(possible, settings.max_connections_per_peer)


async def _greet(supervisor: Supervisor, what: str, began: float) -> None:
    await supervisor.ready()
    log.info("ready: %s (after %.1f s)", what, time.monotonic() - began)


async def _cancel(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _worker_argv(module: str, spec: ModelSpec, arguments: Sequence[str]) -> tuple[str, ...]:
    fixed = ("--served-name", spec.name, "--supervisor-pid", str(os.getpid()))
    return (sys.executable, "-m", module, spec.model, *fixed, *arguments)


@contextmanager
def _data_folder(settings: GatewaySettings) -> Iterator[Path]:
    with data_folder(settings.data_dir, state_folder()) as folder:
        check_database(folder)
        yield folder


def _create_app(settings: GatewaySettings, queue: JobQueue, data_dir: Path, expected_models: Sequence[str]) -> FastAPI:
    limits = GatewayLimits(
        max_images=settings.limit_images,
        max_videos=settings.limit_videos,
        max_body_bytes=settings.max_body_size,
        max_queue_tokens=settings.max_queue_tokens,
        of_key=KeyLimits(
            requests_per_minute=settings.rate_limit_requests,
            tokens_per_minute=settings.rate_limit_tokens,
            max_concurrency=settings.max_concurrency,
        ),
        worker_wait_s=settings.worker_wait,
        idempotency_window_s=settings.idempotency_window,
        resume_window_s=settings.resume_window,
        request_timeout_s=settings.request_timeout,
        files=FileLimits(settings.max_file_size, settings.max_storage, settings.max_files),
        batches=BatchLimits(settings.max_batches, settings.max_batch_lines, settings.batch_concurrency),
    )
    return create_app(
        queue,
        api_keys=settings.api_key,
        key_file=settings.api_key_file,
        data_dir=data_dir,
        expected_models=expected_models,
        limits=limits,
        shared_buckets=_shared_buckets(settings.queue),
    )


def _shared_buckets(queue_url: str) -> SharedBuckets | None:
    if not is_redis(queue_url):
        return None
    from server.limits.redis_buckets import RedisBuckets

    return RedisBuckets(queue_url)
