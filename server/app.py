"""The gateway's ASGI application, put together from its parts. Importing this starts nothing."""

import asyncio
import importlib.metadata
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware

from server.admission import Admission
from server.auth import ApiKeys, AuthMiddleware
from server.errors import install_handlers
from server.fleet import Fleet
from server.inflight import Inflight
from server.metrics import FleetCollector, HttpMetrics, JobMetrics
from server.middleware import RequestMiddleware
from server.routes.chat import chat_router
from server.routes.completions import completions_router
from server.routes.health import health_router
from server.routes.models import models_router
from server.routes.playground import playground_router
from server.routes.tokenize import tokenize_router
from server.streaming import Patience
from server.submit import JobMaker
from server.transport.base import JobQueue


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """What one gateway takes on. `max_per_tenant` None: a single key may fill all of `max_in_flight`."""

    max_images: int = 16
    max_videos: int = 2
    max_body_bytes: int = 32 * 1024 * 1024
    max_in_flight: int = 2048
    max_bytes_in_flight: int = 1024 * 1024 * 1024
    max_per_tenant: int | None = None
    request_timeout_s: float = 600.0
    patience: Patience = Patience()


def create_app(
    queue: JobQueue,
    *,
    api_keys: Sequence[str] = (),
    expected_models: Sequence[str] = (),
    limits: GatewayLimits | None = None,
) -> FastAPI:
    """The application that serves `queue`, which it starts and closes with itself.

    `app.state.fleet.is_draining = True` makes it refuse new requests (503) and report itself as not ready.
    """
    limits = limits or GatewayLimits()
    registry = CollectorRegistry()
    fleet = Fleet(queue, tuple(expected_models))
    registry.register(FleetCollector(fleet))
    admission = Admission(
        limits.max_in_flight,
        limits.max_per_tenant or limits.max_in_flight,
        limits.max_bytes_in_flight,
        time.monotonic,
    )
    inflight = Inflight(queue, JobMetrics(registry, time.monotonic))
    maker = JobMaker(limits.max_images, limits.max_videos, limits.request_timeout_s)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await queue.start()
        dispatcher = asyncio.create_task(_dispatch(inflight, fleet))
        try:
            yield
        finally:
            fleet.is_draining = True
            inflight.close()
            await queue.close()
            dispatcher.cancel()
            with suppress(asyncio.CancelledError):
                await dispatcher

    app = FastAPI(
        title="glimpsed",
        lifespan=lifespan,
        openapi_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(RequestMiddleware, metrics=HttpMetrics(registry), clock=time.monotonic),
            Middleware(AuthMiddleware, keys=ApiKeys(api_keys)),
        ],
    )
    install_handlers(app)
    app.include_router(chat_router(fleet, admission, inflight, maker, limits.patience, limits.max_body_bytes))
    app.include_router(completions_router(fleet, admission, inflight, maker, limits.patience, limits.max_body_bytes))
    app.include_router(tokenize_router(fleet, admission, inflight, maker, limits.max_body_bytes))
    app.include_router(models_router(fleet))
    app.include_router(health_router(fleet, registry, _version()))
    app.include_router(playground_router())
    app.state.fleet = fleet
    return app


async def _dispatch(inflight: Inflight, fleet: Fleet) -> None:
    try:
        await inflight.run()
    finally:
        fleet.is_draining = True


def _version() -> str:
    try:
        return importlib.metadata.version("glimpsed")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
