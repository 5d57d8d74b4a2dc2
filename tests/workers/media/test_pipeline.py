"""From a URL to tiles, with a local origin and real decode processes."""

import asyncio
import base64
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from aiohttp import web

from schemas.errors import ErrorCode, MediaError
from tests.workers.media.clips import clip
from tests.workers.media.origin import Canary, Origin, answer
from tests.workers.media.test_image import encode, noise
from workers.media.cache import MediaCache
from workers.media.fetch import Fetcher
from workers.media.guard import MediaPolicy
from workers.media.pipeline import MediaPipeline, build_pipeline
from workers.media.sandbox import Sandbox
from workers.media.types import ImageOptions, VideoOptions

SMALL = ImageOptions(image_size=28, max_tiles=6)
PARAM = "messages.0.content.1.image_url.url"


@pytest.fixture
async def pipeline(origin: Origin) -> AsyncIterator[MediaPipeline]:
    running = MediaPipeline(Fetcher(MediaPolicy(), origin.resolve, origin.dial), Sandbox(1), MediaCache(16 << 20))
    await running.start()
    yield running
    await running.close()


def data_url(content: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


async def test_a_picture_is_the_same_by_any_way(pipeline: MediaPipeline, origin: Origin) -> None:
    content = encode(noise(84, 28), "PNG")
    by_http = await pipeline.image(origin.serve("/a.png", answer(content)), SMALL, PARAM)
    by_data = await pipeline.image(data_url(content), SMALL, PARAM)
    assert by_data is by_http
    assert by_http.tiles.shape == (4, 28, 28, 3) and by_http.tiles.dtype == np.uint8
    assert (by_http.tile_counts, by_http.width, by_http.height, len(by_http.digest)) == ((4,), 84, 28, 32)
    assert pipeline.cache.num_hits == 1


async def test_a_picture_sent_again_as_base64_is_not_decoded_again(pipeline: MediaPipeline, origin: Origin) -> None:
    content = encode(noise(84, 28), "PNG")
    by_data = await pipeline.image(data_url(content), SMALL, PARAM)
    assert await pipeline.image(data_url(content, "image/x-other"), SMALL, PARAM) is by_data
    assert await pipeline.image(origin.serve("/a.png", answer(content)), SMALL, PARAM) is by_data
    assert await pipeline.image(data_url(content), SMALL, PARAM, tenant="other") is not by_data
    assert pipeline.metrics()["media_decoded_images_total"] == 2


async def test_base64_that_is_none_is_named_so(pipeline: MediaPipeline) -> None:
    for url in ("data:image/png;base64,QUI", "data:image/png,QUJD", "data:image/png;base64,é"):
        with pytest.raises(MediaError) as failed:
            await pipeline.image(url, SMALL, PARAM)
        assert (failed.value.code, failed.value.param) == (ErrorCode.INVALID_BASE64_IMAGE, PARAM)


async def test_a_clip_has_one_tile_a_frame(pipeline: MediaPipeline) -> None:
    media = await pipeline.video(data_url(clip(), "video/mp4"), VideoOptions(28, 8), "video")
    assert media.tiles.shape == (8, 28, 28, 3)
    assert media.tile_counts == (1,) * 8 and len(media.timestamps_s) == 8


async def test_the_digest_is_of_content_and_options(pipeline: MediaPipeline) -> None:
    picture = noise(84, 28)
    url = data_url(encode(picture, "PNG"))
    one = await pipeline.image(url, SMALL, PARAM)
    others = [
        await pipeline.image(url, ImageOptions(28, max_tiles=5), PARAM),
        await pipeline.image(url, ImageOptions(28, max_tiles=6, use_thumbnail=False), PARAM),
        await pipeline.image(url, ImageOptions(28, max_tiles=6, exif_transpose=False), PARAM),
        await pipeline.image(data_url(encode(picture, "PNG", compress_level=1)), SMALL, PARAM),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 5
    assert (await pipeline.image(url, SMALL, PARAM, tenant="other")).digest == one.digest


async def test_tenants_share_neither_downloads_nor_results(pipeline: MediaPipeline, origin: Origin) -> None:
    url = origin.serve("/a.png", answer(encode(noise(28, 28), "PNG")))
    one, other = await asyncio.gather(*(pipeline.image(url, SMALL, PARAM, tenant) for tenant in ("one", "other")))
    assert one is not other and len(origin.requests) == 2
    assert pipeline.cache.num_hits == 0


async def test_many_requests_for_one_url_download_and_decode_once(pipeline: MediaPipeline, origin: Origin) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        arrived.set()
        await go_on.wait()
        return web.Response(body=encode(noise(28, 28), "PNG"))

    url = origin.serve("/slow.png", slow)
    calls = [asyncio.create_task(pipeline.image(url, SMALL, PARAM)) for _ in range(64)]
    await arrived.wait()
    go_on.set()
    results = await asyncio.gather(*calls)
    assert len(origin.requests) == 1
    assert all(result is results[0] for result in results)


async def test_errors_name_the_field_of_each_caller(pipeline: MediaPipeline, origin: Origin) -> None:
    url = origin.serve("/a.png", answer(b"<html>"))
    outcomes = await asyncio.gather(
        *(pipeline.image(url, SMALL, f"field {n}") for n in range(3)), return_exceptions=True
    )
    assert [outcome.param for outcome in outcomes if isinstance(outcome, MediaError)] == [
        f"field {n}" for n in range(3)
    ]
    with pytest.raises(MediaError) as failed:
        await pipeline.video("http://127.0.0.1/", VideoOptions(28, 8), "video")
    assert (failed.value.code, failed.value.param) == (ErrorCode.INVALID_VIDEO_URL, "video")


async def test_a_failure_is_not_kept(pipeline: MediaPipeline, origin: Origin) -> None:
    url = origin.serve("/a.png", answer(b"", 404))
    with pytest.raises(MediaError):
        await pipeline.image(url, SMALL, PARAM)
    origin.serve("/a.png", answer(encode(noise(28, 28), "PNG")))
    assert len((await pipeline.image(url, SMALL, PARAM)).tiles) == 1


async def test_kinds_are_not_mixed_up(pipeline: MediaPipeline, origin: Origin) -> None:
    url = origin.serve("/x", answer(clip()))
    with pytest.raises(MediaError) as failed:
        await pipeline.image(url, SMALL, PARAM)
    assert failed.value.code == ErrorCode.INVALID_IMAGE_FORMAT
    with pytest.raises(MediaError) as failed:
        await pipeline.video(origin.serve("/y", answer(encode(noise(9, 9), "PNG"))), VideoOptions(28, 2), PARAM)
    assert failed.value.code == ErrorCode.INVALID_VIDEO_FORMAT


async def test_figures_tell_what_was_done(pipeline: MediaPipeline, origin: Origin) -> None:
    content = encode(noise(84, 28), "PNG")
    before = pipeline.metrics()
    assert {name for name, value in before.items() if value} == set()
    url = origin.serve("/a.png", answer(content))
    for _ in range(2):
        await pipeline.image(url, SMALL, PARAM)
    await pipeline.video(data_url(clip(), "video/mp4"), VideoOptions(28, 8), "video")
    for bad in ("http://127.0.0.1/", origin.serve("/no", answer(b"", 404)), data_url(b"<html>")):
        with pytest.raises(MediaError):
            await pipeline.image(bad, SMALL, PARAM)
    now = pipeline.metrics()
    assert set(now) == set(before)
    counts = {name: value for name, value in now.items() if value and "seconds" not in name and "cache_b" not in name}
    assert counts == {
        "media_fetch_ok_total": 2,
        "media_fetch_bytes_total": 2 * len(content),
        "media_fetch_failed_total": 2,
        "media_decoded_images_total": 1,
        "media_decoded_videos_total": 1,
        "media_tiles_total": 4,
        "media_frames_total": 8,
        "media_cache_hits_total": 1,
        "media_cache_misses_total": 3,
        "media_rejected_url_total": 1,
        "media_rejected_download_total": 1,
        "media_rejected_format_total": 1,
    }
    for seconds in ("fetch_seconds_total", "decode_image_seconds_total", "decode_video_seconds_total"):
        assert now[f"media_{seconds}"] > 0
    assert now["media_cache_bytes"] == (4 + 8) * 28 * 28 * 3


async def test_a_process_that_is_lost_counts_as_a_restart(pipeline: MediaPipeline) -> None:
    (pid,) = pipeline.sandbox_pids
    os.kill(pid, signal.SIGSTOP)
    call = asyncio.create_task(pipeline.image(data_url(encode(noise(28, 28), "PNG")), SMALL, PARAM))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(MediaError):
        await call
    assert pipeline.metrics()["media_sandbox_restarts_total"] == 1


async def test_the_loop_goes_on_while_media_are_prepared(pipeline: MediaPipeline) -> None:
    url = data_url(encode(noise(500, 500), "PNG"))
    call = asyncio.create_task(pipeline.image(url, ImageOptions(112, min_tiles=4), PARAM))
    turns = 0
    while not call.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 10
    assert len((await call).tiles) > 1


async def test_default_settings_reach_no_private_host_and_the_named_one_only(canary: Canary) -> None:
    pipeline = build_pipeline(private_hosts=[f"127.0.0.1:{canary.port}"], num_processes=1)
    await pipeline.start()
    try:
        with pytest.raises(MediaError) as failed:
            await pipeline.image(f"http://localhost:{canary.port}/", SMALL, PARAM)
        assert failed.value.code == ErrorCode.INVALID_IMAGE_URL and canary.num_hits == 0
        with pytest.raises(MediaError) as failed:
            await pipeline.image(f"http://127.0.0.1:{canary.port}/", SMALL, PARAM)
        assert failed.value.code == ErrorCode.FAILED_TO_DOWNLOAD_IMAGE and canary.num_hits > 0
    finally:
        await pipeline.close()


async def test_files_come_from_the_permitted_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(noise(28, 28), "PNG"))
    pipeline = build_pipeline(file_root=tmp_path, num_processes=1)
    await pipeline.start()
    try:
        assert len((await pipeline.image(f"file://{tmp_path}/a.png", SMALL, PARAM)).tiles) == 1
        with pytest.raises(MediaError) as failed:
            await pipeline.image("file:///etc/passwd", SMALL, PARAM)
        assert failed.value.code == ErrorCode.INVALID_IMAGE_URL
    finally:
        await pipeline.close()


async def test_close_leaves_no_process_descriptor_or_shared_memory(origin: Origin) -> None:
    before, shared = _open_fds(), set(os.listdir("/dev/shm"))
    pipeline = MediaPipeline(origin.fetcher(), Sandbox(2), MediaCache(1 << 20))
    await pipeline.start()
    for n in range(5):
        await pipeline.image(data_url(encode(noise(28, 28 + n), "PNG")), SMALL, PARAM)
    await pipeline.close()
    assert not psutil.Process().children()
    assert _open_fds() == before
    assert set(os.listdir("/dev/shm")) <= shared


async def test_the_reference_tiles_come_out_of_the_whole_pipeline(
    pipeline: MediaPipeline, read_media: Callable[[str], bytes], preprocess: dict[str, Any]
) -> None:
    for golden in preprocess["images"]:
        if "example_image" in golden["image"]:
            continue
        media_type = "image/jpeg" if golden["image"].endswith("jpg") else "image/png"
        url = data_url(read_media(golden["image"]), media_type)
        result = golden["results"][-1]
        options = ImageOptions(result["image_size"], max_tiles=result["max_num"], exif_transpose=False)
        media = await pipeline.image(url, options, PARAM)
        assert hashlib.sha256(media.tiles.tobytes()).hexdigest() == result["tiles_uint8_sha256"]


def _open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))
