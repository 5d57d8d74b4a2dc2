"""API keys: who may ask, and for which tenant. Denies by default; only the probes are open.

Keys are kept and compared as digests, all of them on every request, so that time tells nothing. The path that decides
is the one that routes (`scope["path"]`), never one put together from the Host header.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from schemas.errors import ErrorCode, RequestError
from server.errors import error_response, is_anthropic

OPEN_PATHS = frozenset({"/livez", "/readyz", "/health"})
TENANT_CHARS = 16


class ApiKeys:
    """The keys that open the API; none at all means that everybody may ask, as one tenant."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def __len__(self) -> int:
        return len(self._digests)

    def tenant(self, authorization: bytes) -> str | None:
        """The tenant that an Authorization header stands for (a short hash of the key), None if it is not valid."""
        if not self._digests:
            return ""
        digest = _digest(_presented(authorization))
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return digest.hex()[:TENANT_CHARS] if any(matches) else None


class AuthMiddleware:
    """Lets a request through with its tenant in `scope["state"]["tenant"]`, or answers 401."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        tenant = self._keys.tenant(_authorization(scope))
        if tenant is None:
            error = RequestError(ErrorCode.INVALID_API_KEY, "A valid API key is needed: 'Authorization: Bearer KEY'.")
            # A browser asks its user for the key (as the password) only when challenged for Basic.
            scheme = 'Basic realm="glimpsed", charset="UTF-8"' if scope["path"] == "/" else "Bearer"
            await error_response(error, {"www-authenticate": scheme})(scope, receive, send)
            return
        scope.setdefault("state", {})["tenant"] = tenant
        await self._app(scope, receive, send)


def _authorization(scope: Scope) -> bytes:
    """The header, or on Anthropic's paths their own in its form."""
    headers = dict(reversed(scope["headers"]))
    if b"authorization" not in headers and b"x-api-key" in headers and is_anthropic(scope["path"]):
        return b"Bearer " + bytes(headers[b"x-api-key"])
    return bytes(headers.get(b"authorization", b""))


def _presented(authorization: bytes) -> bytes:
    """The key of a Bearer header, or the password of a Basic one; empty when there is neither."""
    scheme, _, value = authorization.partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
