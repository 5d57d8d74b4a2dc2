"""API keys: who may ask, and for which tenant. Denies by default; only the probes are open.

Keys are kept and compared as digests, all of them on every request, so that time tells nothing. The path that decides
is the one that routes (`scope["path"]`), never one put together from the Host header.
"""

import asyncio
import base64
import binascii
import hmac
import logging
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from schemas.errors import ErrorCode, RequestError
from schemas.flags import ConfigError
from server.errors import error_response, is_anthropic
from server.limits.key_file import KeyEntry, KeyFile, digest_of
from server.limits.key_limits import UNLIMITED, KeyLimits

OPEN_PATHS = frozenset({"/livez", "/readyz", "/health"})
TENANT_CHARS = 16
RELOAD_S = 2.0

logger = logging.getLogger(__name__)


class ApiKeys:
    """The keys that open the API: fixed ones, and those of a file that may change. Neither: everybody may ask, as one
    tenant. limits: what a key may take that has no limits of its own, and what everybody may where there are no keys.

    Raises ConfigError when the file cannot be used.
    """

    def __init__(self, keys: Iterable[str] = (), file: KeyFile | None = None, limits: KeyLimits = UNLIMITED) -> None:
        self._fixed = [KeyEntry(digest_of(key.encode()), "", limits) for key in keys]
        self._file = file
        self._default_limits = limits
        self._set(file.read() if file is not None else [])

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def has_file(self) -> bool:
        """Whether there is a file to be read again."""
        return self._file is not None

    def find(self, key: bytes) -> KeyEntry | None:
        """What is known of a key that was presented; None if it is not valid."""
        digest = digest_of(key)
        matches = [entry for entry in self._entries if hmac.compare_digest(digest, entry.digest)]
        return matches[0] if matches else None

    def is_open(self) -> bool:
        """Whether everybody may ask."""
        return not self._entries

    def limits(self, tenant: str) -> KeyLimits:
        """What a tenant may take."""
        entry = self._by_tenant.get(tenant)
        return entry.limits if entry is not None else self._default_limits

    def reload(self) -> None:
        """Read the file again. One that cannot be used changes nothing and makes a line in the log."""
        if self._file is None:
            return
        try:
            entries = self._file.read()
        except ConfigError as error:
            logger.error("%s; the keys stay as they were", error)
            return
        self._set(entries)
        logger.info("read %d API keys", len(entries))

    async def watch(self) -> None:
        """Reload the file whenever it has changed; runs until it is cancelled."""
        while self._file is not None:
            await asyncio.sleep(RELOAD_S)
            self.reload_if_changed()

    def reload_if_changed(self) -> None:
        """One look at the file."""
        if self._file is not None and self._file.has_changed():
            self.reload()

    def _set(self, entries: list[KeyEntry]) -> None:
        from_file = {entry.digest for entry in entries}
        self._entries = [*(entry for entry in self._fixed if entry.digest not in from_file), *entries]
        self._by_tenant = {tenant_of(entry): entry for entry in self._entries}


def tenant_of(entry: KeyEntry) -> str:
    """The tenant that a key stands for: a short hash of it."""
    return entry.digest.hex()[:TENANT_CHARS]


class AuthMiddleware:
    """Lets a request through with its tenant in `scope["state"]["tenant"]`, or answers 401."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        if self._keys.is_open():
            state["tenant"] = ""
            await self._app(scope, receive, send)
            return
        entry = self._keys.find(presented_key(Headers(scope=scope), scope["path"]))
        if entry is None:
            error = RequestError(ErrorCode.INVALID_API_KEY, "A valid API key is needed: 'Authorization: Bearer KEY'.")
            # A browser asks its user for the key (as the password) only when challenged for Basic.
            scheme = 'Basic realm="glimpsed", charset="UTF-8"' if scope["path"] == "/" else "Bearer"
            await error_response(error, {"www-authenticate": scheme})(scope, receive, send)
            return
        state["tenant"] = tenant_of(entry)
        state["key_name"] = entry.name
        await self._app(scope, receive, send)


def presented_key(headers: Headers, path: str) -> bytes:
    """The key of a Bearer header, or the password of a Basic one, or on Anthropic's paths `x-api-key`; empty when
    there is none."""
    scheme, _, value = headers.get("authorization", "").encode("latin-1").partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    if not scheme and is_anthropic(path):
        return headers.get("x-api-key", "").encode("latin-1")
    return b""
