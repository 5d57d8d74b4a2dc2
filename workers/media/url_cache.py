"""Whether, and for how long, the bytes behind a URL may be used again: the private-cache part of RFC 9111. Pure.

Only what the origin allows: `Cache-Control: max-age` keeps bytes fresh, an `ETag` or `Last-Modified` lets a stale copy
be asked after. Without any of these nothing is kept, and no lifetime is ever guessed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from workers.media.cache import BoundedCache

MAX_FRESH_S = 24 * 3600.0
_MAX_VALIDATOR_CHARS = 512
_DIRECTIVE = re.compile(r'([a-z0-9-]+)(?:\s*=\s*(?:"([^"]*)"|([^\s,]*)))?', re.IGNORECASE)


@dataclass(frozen=True)
class StoredBytes:
    """A body with what its origin said about keeping it. `fresh_until_s`: on the clock of whoever stores it."""

    content: bytes
    etag: str
    last_modified: str
    fresh_until_s: float

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    def conditions(self) -> dict[str, str]:
        """Headers of a request that is answered with 304 while the body is still the same."""
        headers = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in headers.items() if value}

    def refreshed(self, headers: Mapping[str, str], now_s: float) -> "StoredBytes | None":
        """The same body after a 304 with these headers; None where it may not be kept any longer."""
        confirmed = store(self.content, headers, now_s)
        if confirmed is not None:
            return confirmed
        # A 304 need not repeat the validators.
        return None if _forbids(_directives(headers)) else replace(self, fresh_until_s=now_s)


class UrlCache(BoundedCache[StoredBytes]):
    """Bodies by (tenant, kind, URL)."""


def store(content: bytes, headers: Mapping[str, str], now_s: float) -> StoredBytes | None:
    """What to keep of an answer with status 200; None where the origin forbids or does not allow it."""
    directives = _directives(headers)
    etag, last_modified = _validator(headers, "ETag"), _validator(headers, "Last-Modified")
    fresh_s = 0.0 if "no-cache" in directives else _lifetime_s(directives, headers)
    if _forbids(directives) or headers.get("Vary", "").strip() == "*" or not (etag or last_modified or fresh_s):
        return None
    return StoredBytes(content, etag, last_modified, now_s + fresh_s)


def _forbids(directives: Mapping[str, str]) -> bool:
    return "no-store" in directives


def _lifetime_s(directives: Mapping[str, str], headers: Mapping[str, str]) -> float:
    seconds, age = directives.get("max-age", ""), headers.get("Age", "0").strip()
    if not seconds.isdecimal() or not age.isdecimal() or len(seconds + age) > 20:
        return 0.0
    return float(max(0, min(int(seconds) - int(age), MAX_FRESH_S)))


def _directives(headers: Mapping[str, str]) -> dict[str, str]:
    found = _DIRECTIVE.findall(headers.get("Cache-Control", ""))
    return {name.lower(): quoted or plain for name, quoted, plain in found}


def _validator(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, "")
    return value if len(value) <= _MAX_VALIDATOR_CHARS and value.isascii() and value.isprintable() else ""
