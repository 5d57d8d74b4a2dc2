"""The gateway's ASGI application, put together from its parts. Importing this starts nothing."""

import asyncio
import importlib.metadata
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from fastapi import APIRouter, FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware

from schemas.jobs import BACKGROUND_PRIORITY
from schemas.openai.files import DAY_S
from server.admission import Admission
from server.auth import ApiKeys, AuthMiddleware
from server.batches.build import BatchLimits, build_batches
from server.errors import install_handlers
from server.files.database import Database
from server.files.store import FileLimits, FileStore
from server.fleet import Fleet
from server.idempotency import IdempotencyMiddleware, IdempotentAnswers
from server.inflight import Inflight
from server.limits.gate import Gate
from server.limits.gate_metrics import GateCollector
from server.limits.key_file import KeyFile
from server.limits.key_limits import UNLIMITED, KeyLimits
from server.limits.middleware import RateLimitMiddleware
from server.limits.rates import RateLimits
from server.limits.sharing import SharedBuckets, keep_sharing
from server.metrics import FleetCollector, HttpMetrics, JobMetrics
from server.middleware import RequestMiddleware
from server.responses.background import BackgroundResponses
from server.responses.store import ResponseStore, StoreLimits
from server.routes.batches import batches_router
from server.routes.chat import chat_router
from server.routes.completions import completions_router
from server.routes.document import document_router
from server.routes.files import files_router
from server.routes.health import health_router
from server.routes.messages import messages_router
from server.routes.models import models_router
from server.routes.playground import playground_router
from server.routes.responses import responses_router
from server.routes.tokenize import tokenize_router
from server.streaming import Patience
from server.submit import JobMaker
from server.trail import Trail
from server.transport.answers import RESUME_WINDOW_S
from server.transport.base import JobQueue
from server.transport.memory_answers import MemoryAnswers

LINE_TIMEOUT_S = float(DAY_S)
"""A line may wait for as long as its batch may run, which ends sooner what is late."""


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """What one gateway takes on.

    of_key: what each key may take that the key file says nothing else of. max_queue_tokens: prompt tokens that may wait
    for one model. worker_wait_s: how long a request waits while its model has no worker.
    idempotency_window_s: how long answers to requests with an Idempotency-Key are kept. resume_window_s: how long the
    events of a response of the background are, where no queue shares them. responses: what is kept of responses that
    have ended; None: room for a few of the largest bodies of each tenant.
    """

    max_images: int = 16
    max_videos: int = 2
    max_body_bytes: int = 32 * 1024 * 1024
    max_in_flight: int = 2048
    max_bytes_in_flight: int = 1024 * 1024 * 1024
    max_queue_tokens: int = 2_000_000
    of_key: KeyLimits = UNLIMITED
    request_timeout_s: float = 600.0
    worker_wait_s: float = 30.0
    idempotency_window_s: float = 86400.0
    resume_window_s: float = RESUME_WINDOW_S
    patience: Patience = Patience()
    responses: StoreLimits | None = None
    files: FileLimits = FileLimits()
    batches: BatchLimits = BatchLimits()


def create_app(
    queue: JobQueue,
    *,
    api_keys: Sequence[str] = (),
    key_file: Path | None = None,
    data_dir: Path | None = None,
    expected_models: Sequence[str] = (),
    limits: GatewayLimits | None = None,
    shared_buckets: SharedBuckets | None = None,
) -> FastAPI:
    """The application that serves `queue`, which it starts and closes with itself.

    data_dir: where files and batches are kept; None: they are not, and their routes say so.
    shared_buckets: what gateways count the keys' limits in together; None: this one counts for itself.
    `app.state.fleet.is_draining = True` makes it refuse new requests (503) and report itself as not ready;
    `app.state.keys.reload()` reads the key file again. Raises ConfigError when that file cannot be used.
    """
    limits = limits or GatewayLimits()
    registry = CollectorRegistry()
    fleet = Fleet(queue, tuple(expected_models))
    registry.register(FleetCollector(fleet))
    keys = ApiKeys(api_keys, KeyFile(key_file, limits.of_key) if key_file is not None else None, limits.of_key)
    rates = RateLimits(keys.limits, time.monotonic)
    gate = Gate(keys.limits, rates, limits.max_queue_tokens, time.monotonic)
    registry.register(GateCollector(gate))
    admission = Admission(
        limits.max_in_flight,
        lambda tenant: keys.limits(tenant).max_concurrency,
        limits.max_bytes_in_flight,
        time.monotonic,
    )
    trails: WeakValueDictionary[str, Trail] = WeakValueDictionary()
    inflight = Inflight(queue, JobMetrics(registry, time.monotonic), gate, limits.worker_wait_s, trails)
    maker = JobMaker(limits.max_images, limits.max_videos, limits.request_timeout_s)

    store = ResponseStore(limits.responses or StoreLimits.for_bodies(limits.max_body_bytes), time.monotonic)
    answers = queue.answers or MemoryAnswers(time.monotonic, limits.resume_window_s)
    background = BackgroundResponses(answers, inflight, trails, lambda: fleet.is_draining)
    database = Database(data_dir)
    files = FileStore(database, limits.files, time.time)

    def generating(admission: Admission, maker: JobMaker, background: BackgroundResponses | None) -> list[APIRouter]:
        bounds = (limits.patience, limits.max_body_bytes)
        return [
            chat_router(fleet, admission, inflight, maker, *bounds),
            completions_router(fleet, admission, inflight, maker, *bounds),
            responses_router(fleet, admission, inflight, maker, store, background, *bounds),
        ]

    unlimited = Admission(sys.maxsize, lambda _: None, sys.maxsize, time.monotonic)
    in_background = JobMaker(limits.max_images, limits.max_videos, LINE_TIMEOUT_S, BACKGROUND_PRIORITY)
    lines_app = _lines_app(generating(unlimited, in_background, None))
    batches = build_batches(
        database, files, fleet, lines_app, registry, limits.batches, limits.max_body_bytes, time.time
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await queue.start()
        await database.open()
        await files.open()
        dispatcher = asyncio.create_task(_dispatch(inflight, fleet))
        watchers = [asyncio.create_task(watch) for watch in (inflight.tend(), keys.watch())]
        keeper = asyncio.create_task(batches.run())
        if shared_buckets is not None:
            watchers.append(asyncio.create_task(keep_sharing(rates, shared_buckets, time.monotonic)))
        try:
            yield
        finally:
            fleet.is_draining = True
            # Lines that run are left as they are, to be taken up by the next start.
            await _stop(keeper)
            inflight.close()
            await background.close()
            await queue.close()
            await _stop(dispatcher, *watchers)
            if shared_buckets is not None:
                await shared_buckets.close()
            await database.close()

    app = FastAPI(
        title="glimpsed",
        lifespan=lifespan,
        openapi_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(RequestMiddleware, metrics=HttpMetrics(registry), clock=time.monotonic),
            Middleware(AuthMiddleware, keys=keys),
            Middleware(RateLimitMiddleware, rates=rates),
            Middleware(
                IdempotencyMiddleware,
                answers=IdempotentAnswers(limits.idempotency_window_s, time.monotonic),
                admission=admission,
                max_body_bytes=limits.max_body_bytes,
                stall_s=limits.patience.stall_s,
                shared=(queue.answers, trails) if queue.answers is not None else None,
            ),
        ],
    )
    install_handlers(app)
    for router in generating(admission, maker, background):
        app.include_router(router)
    app.include_router(messages_router(fleet, admission, inflight, maker, limits.patience, limits.max_body_bytes))
    app.include_router(files_router(fleet, admission, files, limits.files.max_file_bytes))
    app.include_router(batches_router(fleet, admission, batches))
    app.include_router(tokenize_router(fleet, admission, inflight, maker, limits.max_body_bytes))
    app.include_router(models_router(fleet))
    app.include_router(health_router(fleet, registry, _version()))
    app.include_router(document_router(_version()))
    app.include_router(playground_router())
    app.state.fleet = fleet
    app.state.keys = keys
    return app


def _lines_app(routers: Sequence[APIRouter]) -> FastAPI:
    """What answers the lines of batches: the routes of live requests, without their keys and limits."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    install_handlers(app)
    for router in routers:
        app.include_router(router)
    return app


async def _dispatch(inflight: Inflight, fleet: Fleet) -> None:
    try:
        await inflight.run()
    finally:
        fleet.is_draining = True


async def _stop(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _version() -> str:
    try:
        return importlib.metadata.version("glimpsed")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
