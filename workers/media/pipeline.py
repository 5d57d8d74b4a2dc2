"""From a URL in a request to pixels: fetch, hash, look up, decode in the sandbox, keep."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np

from schemas.data_url import DataUrl
from schemas.errors import MediaError
from workers.media.cache import MediaCache
from workers.media.data_url import base64_text
from workers.media.fetch import Fetcher
from workers.media.guard import MediaPolicy, parse_domains, parse_private_hosts
from workers.media.sandbox import Sandbox
from workers.media.single_flight import SingleFlight
from workers.media.types import ImageOptions, Layout, MediaKind, MediaOptions, PreparedMedia, VideoOptions
from workers.media.url_cache import UrlCache

# Part of every digest: to be raised whenever a transform's pixels change.
_PIXELS_VERSION = 1
_HASHED_IN_THREAD_BYTES = 128 << 10
_KNOWN_TEXTS = 4096

_Key = tuple[str, bytes]
"""Tenant and digest."""


class MediaPipeline:
    """`start()` and `close()` on the event loop that the rest is called on; nothing here blocks that loop.

    `fast_resize`: what holds where the options leave it open.
    """

    def __init__(self, fetcher: Fetcher, sandbox: Sandbox, cache: MediaCache, fast_resize: bool = False) -> None:
        self._fetcher = fetcher
        self._sandbox = sandbox
        self._fast_resize = fast_resize
        self._figures = fetcher.figures
        self.cache = cache
        self._downloads: SingleFlight[bytes] = SingleFlight()
        self._decodings: SingleFlight[PreparedMedia] = SingleFlight()
        # Digest of a base64 text -> that of the file it stands for: what only a decode process can tell.
        self._files: OrderedDict[_Key, _Key] = OrderedDict()

    async def start(self) -> None:
        await self._fetcher.start()
        try:
            await self._sandbox.start()
        except BaseException:
            await self._fetcher.close()
            raise

    async def close(self) -> None:
        """Ends downloads and decodings that are under way; their callers get Unavailable."""
        await self._downloads.close()
        await self._decodings.close()
        await self._fetcher.close()
        await self._sandbox.close()

    async def image(self, url: str | DataUrl, options: MediaOptions, param: str, tenant: str = "") -> PreparedMedia:
        """The picture behind an http, https, data or (where permitted) file URL.

        `options`: `ImageOptions`, or those of a family's own transform. `param`: the field the URL stands in, for
        errors. `tenant`: nothing is shared between two of them.
        Raises MediaError; Unavailable while closing.
        """
        return await self._prepare(url, options, MediaKind.IMAGE, param, tenant)

    async def video(self, url: str | DataUrl, options: MediaOptions, param: str, tenant: str = "") -> PreparedMedia:
        """As `image`, for a clip."""
        return await self._prepare(url, options, MediaKind.VIDEO, param, tenant)

    @property
    def sandbox_pids(self) -> list[int]:
        """Of the decode processes that are up."""
        return self._sandbox.pids

    def metrics(self) -> dict[str, float]:
        """Figures for a heartbeat, by name; what ends in _total only grows."""
        figures = self._figures.totals() | {
            "cache_hits_total": self.cache.num_hits,
            "cache_misses_total": self.cache.num_misses,
            "cache_bytes": self.cache.size_bytes,
            "url_cache_bytes": self._fetcher.cache.size_bytes,
            "sandbox_restarts_total": self._sandbox.num_lost,
        }
        figures |= {f"decode_{kind}_seconds_total": seconds for kind, seconds in self._sandbox.busy_s.items()}
        return {f"media_{name}": float(value) for name, value in figures.items()}

    async def _prepare(
        self, url: str | DataUrl, options: MediaOptions, kind: MediaKind, param: str, tenant: str
    ) -> PreparedMedia:
        if isinstance(options, ImageOptions | VideoOptions) and options.fast_resize is None:
            options = replace(options, fast_resize=self._fast_resize)
        try:
            if isinstance(url, DataUrl) or url[:5].lower() == "data:":
                return await self._prepare_base64(url, options, kind, tenant)
            content = await self._downloads.run((tenant, kind, url), lambda: self._fetcher.fetch(url, kind, tenant))
            key = (tenant, _digest(await _sha256(content), options))
            media = self.cache.get(key)
            if media is not None:
                return media
            return await self._decodings.run(key, lambda: self._decode(content, options, kind, key))
        except MediaError as error:
            self._figures.rejected(error)
            # Callers that shared the work each have their own field.
            raise MediaError(error.code, error.message, param) from error

    async def _prepare_base64(
        self, url: str | DataUrl, options: MediaOptions, kind: MediaKind, tenant: str
    ) -> PreparedMedia:
        text = base64_text(url, kind, self._fetcher.max_bytes(kind))
        text_key = (tenant, _digest(b"base64" + await _sha256(text), options))
        media = self.cache.get(self._files.get(text_key, text_key))
        if media is not None:
            self._files.move_to_end(text_key)
            return media
        return await self._decodings.run(text_key, lambda: self._decode_base64(text, options, kind, text_key))

    async def _decode(self, content: bytes, options: MediaOptions, kind: MediaKind, key: _Key) -> PreparedMedia:
        tiles, layout = await self._sandbox.decode(content, options, kind)
        return self._keep(tiles, layout, kind, key)

    async def _decode_base64(
        self, text: memoryview, options: MediaOptions, kind: MediaKind, text_key: _Key
    ) -> PreparedMedia:
        tiles, layout, sha256 = await self._sandbox.decode_base64(text, options, kind)
        key = self._files[text_key] = (text_key[0], _digest(sha256, options))
        while len(self._files) > _KNOWN_TEXTS:
            self._files.popitem(last=False)
        # The same file may have come by a URL before: then it is one medium, for the engine's caches too.
        known = self.cache.get(key) if key in self.cache else None
        return known or self._keep(tiles, layout, kind, key)

    def _keep(self, tiles: np.ndarray, layout: Layout, kind: MediaKind, key: _Key) -> PreparedMedia:
        media = PreparedMedia(tiles, layout.tile_counts, key[1], layout.width, layout.height, layout.timestamps_s)
        self._figures.decoded(kind, sum(layout.tile_counts))
        self.cache.put(key, media)
        return media


def build_pipeline(
    file_root: Path | None = None,
    private_hosts: Iterable[str] = (),
    domains: Iterable[str] = (),
    fast_resize: bool = False,
    num_processes: int = 2,
    cache_bytes: int = 256 << 20,
) -> MediaPipeline:
    """A pipeline from an operator's settings, not yet started. Raises ValueError for a host or domain that is none.

    `cache_bytes`: for what was prepared; downloads that may be kept get half as much.
    """
    policy = MediaPolicy(parse_private_hosts(private_hosts), file_root, domains=parse_domains(domains))
    fetcher = Fetcher(policy, cache=UrlCache(cache_bytes // 2))
    return MediaPipeline(fetcher, Sandbox(num_processes), MediaCache(cache_bytes), fast_resize)


async def _sha256(content: bytes | memoryview) -> bytes:
    if len(content) > _HASHED_IN_THREAD_BYTES:
        return await asyncio.to_thread(lambda: hashlib.sha256(content).digest())
    return hashlib.sha256(content).digest()


def _digest(sha256: bytes, options: MediaOptions) -> bytes:
    """sha256 over the file's own and everything that decides about the pixels made of it."""
    described = repr((_PIXELS_VERSION, type(options).__name__, astuple(options)))
    return hashlib.sha256(described.encode() + b"\n" + sha256).digest()
