"""GET /: one static page to try the server with. It loads nothing from elsewhere; the policy sent with it says so."""

import base64
import hashlib
import importlib.resources
import re

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response


def playground_router() -> APIRouter:
    """The page's route."""
    router = APIRouter()
    page = (importlib.resources.files("server") / "static" / "playground.html").read_text(encoding="utf-8")
    headers = {
        "content-security-policy": (
            f"default-src 'none'; script-src {_source(page, 'script')}; style-src {_source(page, 'style')}; "
            "connect-src 'self'; img-src data:; media-src data:; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }

    @router.get("/")
    async def playground() -> Response:
        return HTMLResponse(page, headers=headers)

    return router


def _source(page: str, tag: str) -> str:
    """The one inline element of this kind, by its hash, as a policy's source."""
    found = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    assert found is not None
    digest = hashlib.sha256(found[1].encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
