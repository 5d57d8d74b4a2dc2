"""Probes, version, metrics and the list of workers."""

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.responses import JSONResponse, Response

from server.fleet import Fleet


def health_router(fleet: Fleet, registry: CollectorRegistry, version: str) -> APIRouter:
    """The routes that tell how the server is."""
    router = APIRouter()

    @router.get("/livez")
    async def livez() -> Response:
        return JSONResponse({"status": "ok"})

    @router.get("/readyz")
    @router.get("/health")
    async def health() -> Response:
        models = {model: {"ready_workers": count} for model, count in fleet.num_ready().items()}
        if fleet.is_ready():
            return JSONResponse({"status": "ready", "models": models})
        status = "draining" if fleet.is_draining else "starting"
        return JSONResponse({"status": status, "models": models}, 503, {"retry-after": "1"})

    @router.get("/version")
    async def get_version() -> Response:
        return JSONResponse({"version": version})

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @router.get("/admin/workers")
    async def workers() -> Response:
        return JSONResponse(
            {
                "workers": [
                    {
                        "id": worker.worker_id,
                        "pid": worker.pid,
                        "model": worker.card.name,
                        "state": worker.state,
                        "running": worker.running,
                        "waiting": worker.waiting,
                        "kv_usage": worker.kv_usage,
                    }
                    for worker in fleet.workers()
                ]
            }
        )

    return router
