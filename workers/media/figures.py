"""What the media pipeline has done since it started, as plain numbers for a heartbeat. Knows no exporter.

Names that end in _total only grow. All of them are there from the start, so that a rate has something to begin with.
"""

from schemas.errors import MediaError
from workers.media.failures import Failure
from workers.media.types import MediaKind

_REASONS = {failure.format(kind.value): failure.name.lower() for failure in Failure for kind in MediaKind}


class MediaFigures:
    """Counters of one pipeline. One event loop, no locks."""

    def __init__(self) -> None:
        names = [
            "fetch_ok", "fetch_failed", "fetch_bytes", "fetch_seconds", "url_cache_hits", "url_cache_revalidated",
            "decoded_images", "decoded_videos", "tiles", "frames",
        ]  # fmt: skip
        names += [f"rejected_{reason}" for reason in sorted(set(_REASONS.values()))]
        self._totals = dict.fromkeys(names, 0.0)

    def fetched(self, size_bytes: int, seconds: float) -> None:
        """A URL's bytes came from their origin."""
        self._add(fetch_ok=1, fetch_bytes=size_bytes, fetch_seconds=seconds)

    def fetch_failed(self, seconds: float) -> None:
        """A URL was refused by the rules, or its origin did not give the bytes."""
        self._add(fetch_failed=1, fetch_seconds=seconds)

    def url_cache_hit(self, is_revalidated: bool) -> None:
        """Kept bytes were used again, still fresh or confirmed by their origin."""
        self._add(**{"url_cache_revalidated" if is_revalidated else "url_cache_hits": 1})

    def decoded(self, kind: MediaKind, num_tiles: int) -> None:
        """A decode process made a picture's tiles, or so many of a clip's frames."""
        self._add(**{f"decoded_{kind}s": 1, "tiles" if kind is MediaKind.IMAGE else "frames": num_tiles})

    def rejected(self, error: MediaError) -> None:
        """A request got this error."""
        reason = _REASONS.get(error.code.value)
        if reason is not None:
            self._add(**{f"rejected_{reason}": 1})

    def totals(self) -> dict[str, float]:
        """Name, ending in _total -> value."""
        return {f"{name}_total": value for name, value in self._totals.items()}

    def _add(self, **amounts: float) -> None:
        for name, amount in amounts.items():
            self._totals[name] += amount
