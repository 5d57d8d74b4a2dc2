"""The decode processes: what hostile files, crashes and hangs cost, and what is left behind."""

import asyncio
import base64
import hashlib
import io
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import av
import numpy as np
import psutil
import pytest

from schemas.errors import ErrorCode, MediaError, Unavailable
from tests.workers.media.clips import animation, brightness, clip, forge, playlists, repeated
from tests.workers.media.origin import Canary
from tests.workers.media.test_image import FORMATS, encode, noise, png_of_zeros, webp_bomb
from workers.media.decode_process import INPUT_BYTES, DecodeProcess
from workers.media.fetch import LIMITS as LARGEST
from workers.media.protocol import DecodeRequest
from workers.media.sandbox import LIMITS, Sandbox
from workers.media.transforms import image_tiles
from workers.media.types import ImageOptions, Layout, MediaKind, VideoOptions

SMALL = ImageOptions(image_size=28, max_tiles=6)


async def test_every_format_decodes_as_it_does_in_process(sandbox: Sandbox) -> None:
    for image_format in FORMATS:
        content = encode(noise(80, 40), image_format)
        tiles, layout = await sandbox.decode(content, SMALL, MediaKind.IMAGE)
        expected, same_layout = _in_process(content)
        np.testing.assert_array_equal(tiles, expected)
        assert layout == same_layout
    assert sandbox.num_replaced == 0


async def test_clips_of_every_container_decode(sandbox: Sandbox) -> None:
    kinds = [("mp4", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4"), ("mov", "mjpeg")]
    kinds += [("mp4", "libsvtav1"), ("mp4", "libx265"), ("webm", "libvpx-vp9")]
    for container, codec in (kind for kind in kinds if kind[1] in av.codecs_available):
        content = clip(container=container, codec=codec, pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p")
        tiles, layout = await sandbox.decode(content, VideoOptions(28, 6), MediaKind.VIDEO)
        assert layout.tile_counts == (1,) * 6
        assert [brightness(tile) for tile in tiles] == pytest.approx([2, 7, 12, 17, 21, 26], abs=1)
    assert sandbox.num_replaced == 0


async def test_animations_decode_as_clips(sandbox: Sandbox) -> None:
    for image_format in ("WEBP", "GIF"):
        tiles, _ = await sandbox.decode(animation(image_format), VideoOptions(28, 6), MediaKind.VIDEO)
        assert [brightness(tile) for tile in tiles] == pytest.approx([2, 7, 12, 17, 21, 26], abs=1)


async def test_a_file_may_come_as_base64(sandbox: Sandbox) -> None:
    content = encode(noise(80, 40), "PNG")
    text = base64.b64encode(content)
    tiles, layout, sha256 = await sandbox.decode_base64(memoryview(text), SMALL, MediaKind.IMAGE)
    expected, same_layout = _in_process(content)
    np.testing.assert_array_equal(tiles, expected)
    assert layout == same_layout and sha256 == hashlib.sha256(content).digest()
    for broken in (text[:-1], text.replace(b"A", b"*", 1), b"====", text + b"\n"):
        with pytest.raises(MediaError) as failed:
            await sandbox.decode_base64(broken, SMALL, MediaKind.IMAGE)
        assert failed.value.code == ErrorCode.INVALID_BASE64_IMAGE
    assert sandbox.num_lost == 0


async def test_the_largest_clip_fits_as_base64(sandbox: Sandbox) -> None:
    most = LARGEST[MediaKind.VIDEO].size_bytes
    assert len(base64.b64encode(bytes(3))) * -(-most // 3) <= INPUT_BYTES


async def test_a_clip_has_a_second_thread_while_a_process_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    decode = DecodeProcess.decode

    async def watched(process: DecodeProcess, content: bytes, request: DecodeRequest) -> Any:
        asked.append(request.num_threads)
        return await decode(process, content, request)

    monkeypatch.setattr(DecodeProcess, "decode", watched)
    options, content = VideoOptions(28, 4), clip()
    async with running(Sandbox(2)) as sandbox:
        (alone, _), *_ = [await sandbox.decode(content, options, MediaKind.VIDEO)]
        both = await asyncio.gather(*(sandbox.decode(content, options, MediaKind.VIDEO) for _ in range(2)))
    assert asked == [2, 2, 1]
    for tiles, _ in both:
        np.testing.assert_array_equal(tiles, alone)


async def test_results_do_not_share_memory(sandbox: Sandbox) -> None:
    first, _ = await sandbox.decode(encode(noise(40, 40), "PNG"), SMALL, MediaKind.IMAGE)
    kept = first.copy()
    await sandbox.decode(png_of_zeros(40, 40, 8, 2), SMALL, MediaKind.IMAGE)
    np.testing.assert_array_equal(first, kept)


async def test_the_process_has_no_network_no_files_and_no_children(sandbox: Sandbox) -> None:
    (pid,) = sandbox.pids
    process = psutil.Process(pid)
    status = _status(pid)
    assert int(status["Seccomp"]) == 2
    assert process.nice() >= 10 and os.sched_getscheduler(pid) == os.SCHED_BATCH
    assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    assert process.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
    assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
    assert process.rlimit(psutil.RLIMIT_NOFILE)[1] < 64
    assert process.rlimit(psutil.RLIMIT_AS)[1] < 6 << 30
    assert not {"HOME", "PATH", "USER"} & set(process.environ())


async def test_hostile_files_leave_the_process_alive(sandbox: Sandbox) -> None:
    (pid,) = sandbox.pids
    for content, code in (
        (webp_bomb(), ErrorCode.IMAGE_TOO_LARGE),
        (png_of_zeros(9000, 5000, 1, 0), ErrorCode.IMAGE_TOO_LARGE),
        (encode(noise(100, 100), "JPEG")[:500], ErrorCode.IMAGE_PARSE_ERROR),
        (b"%!PS-Adobe-3.0", ErrorCode.INVALID_IMAGE_FORMAT),
    ):
        with pytest.raises(MediaError) as failed:
            await sandbox.decode(content, SMALL, MediaKind.IMAGE)
        assert failed.value.code == code
    assert sandbox.pids == [pid]


async def test_playlists_reach_nobody(sandbox: Sandbox, canary: Canary) -> None:
    for content in playlists(canary.port).values():
        with pytest.raises(MediaError):
            await sandbox.decode(content, VideoOptions(28, 4), MediaKind.VIDEO)
    assert canary.num_hits == 0 and sandbox.num_replaced == 0


async def test_a_forged_frame_count_costs_nobody_anything(sandbox: Sandbox) -> None:
    forged = forge(clip(), b"stts", 8, 2**31 - 1)
    try:
        tiles, _ = await sandbox.decode(forged, VideoOptions(28, 4), MediaKind.VIDEO)
        assert len(tiles) == 4
    except MediaError as error:
        assert error.code in (ErrorCode.VIDEO_PARSE_ERROR, ErrorCode.VIDEO_TOO_LARGE)
    await sandbox.decode(encode(noise(8, 8), "PNG"), SMALL, MediaKind.IMAGE)


@pytest.mark.slow
async def test_six_hundred_of_the_largest_frames_stay_within_the_limits(sandbox: Sandbox) -> None:
    try:
        tiles, _ = await sandbox.decode(repeated(600, (4096, 2304)), VideoOptions(448, 600), MediaKind.VIDEO)
        assert len(tiles) == 600
    except MediaError as error:
        assert error.code == ErrorCode.VIDEO_TOO_LARGE
    await sandbox.decode(encode(noise(8, 8), "PNG"), SMALL, MediaKind.IMAGE)


async def test_input_beyond_the_shared_memory_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(MediaError) as failed:
        await sandbox.decode(bytes(INPUT_BYTES + 1), SMALL, MediaKind.IMAGE)
    assert failed.value.code == ErrorCode.IMAGE_FILE_TOO_LARGE and sandbox.num_lost == 0


async def test_output_beyond_the_shared_memory_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(MediaError) as failed:
        await sandbox.decode(encode(noise(8, 8), "PNG"), ImageOptions(20_000, min_tiles=2), MediaKind.IMAGE)
    assert failed.value.code == ErrorCode.IMAGE_TOO_LARGE


async def test_too_much_memory_is_a_media_error() -> None:
    limits = LIMITS | {MediaKind.IMAGE: replace(LIMITS[MediaKind.IMAGE], memory_bytes=16 << 20)}
    async with running(Sandbox(1, limits=limits)) as sandbox:
        with pytest.raises(MediaError) as failed:
            await sandbox.decode(png_of_zeros(5000, 5000, 1, 0), SMALL, MediaKind.IMAGE)
        assert failed.value.code in (ErrorCode.IMAGE_TOO_LARGE, ErrorCode.IMAGE_PARSE_ERROR)
        await sandbox.decode(encode(noise(8, 8), "PNG"), SMALL, MediaKind.IMAGE)


async def test_kill_9_in_flight_costs_its_request_and_the_process_is_replaced(sandbox: Sandbox) -> None:
    (pid,) = sandbox.pids
    os.kill(pid, signal.SIGSTOP)
    slow = asyncio.create_task(sandbox.decode(encode(noise(64, 64), "PNG"), SMALL, MediaKind.IMAGE))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(MediaError) as failed:
        await slow
    assert failed.value.code == ErrorCode.IMAGE_PARSE_ERROR
    await sandbox.decode(encode(noise(64, 64), "PNG"), SMALL, MediaKind.IMAGE)
    assert pid not in sandbox.pids and not psutil.pid_exists(pid)


async def test_a_process_that_died_while_idle_costs_no_request(sandbox: Sandbox) -> None:
    (pid,) = sandbox.pids
    os.kill(pid, signal.SIGKILL)
    while sandbox.pids:  # until the loop has seen it
        await asyncio.sleep(0)
    await sandbox.decode(encode(noise(64, 64), "PNG"), SMALL, MediaKind.IMAGE)
    assert sandbox.num_replaced == 1 and sandbox.pids != [pid]


async def test_a_hang_ends_at_the_wall_limit() -> None:
    limits = LIMITS | {MediaKind.IMAGE: replace(LIMITS[MediaKind.IMAGE], wall_s=0.2)}
    async with running(Sandbox(1, limits=limits)) as sandbox:
        (pid,) = sandbox.pids
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(MediaError) as failed:
            await sandbox.decode(encode(noise(64, 64), "PNG"), SMALL, MediaKind.IMAGE)
        assert failed.value.code == ErrorCode.IMAGE_TOO_LARGE
        tiles, _ = await sandbox.decode(clip(), VideoOptions(28, 4), MediaKind.VIDEO)
        assert len(tiles) == 4 and not psutil.pid_exists(pid)


async def test_too_much_cpu_is_too_slow() -> None:
    limits = LIMITS | {MediaKind.IMAGE: replace(LIMITS[MediaKind.IMAGE], cpu_s=0)}
    async with running(Sandbox(1, limits=limits)) as sandbox:
        with pytest.raises(MediaError) as failed:
            await sandbox.decode(png_of_zeros(8000, 5000, 8, 2), ImageOptions(1000, max_tiles=40), MediaKind.IMAGE)
        assert failed.value.code == ErrorCode.IMAGE_TOO_LARGE
        assert "too long" in failed.value.message


async def test_a_cancelled_request_frees_its_place(sandbox: Sandbox) -> None:
    (pid,) = sandbox.pids
    os.kill(pid, signal.SIGSTOP)
    slow = asyncio.create_task(sandbox.decode(encode(noise(64, 64), "PNG"), SMALL, MediaKind.IMAGE))
    await asyncio.sleep(0)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    await sandbox.decode(encode(noise(64, 64), "PNG"), SMALL, MediaKind.IMAGE)
    assert not psutil.pid_exists(pid)


async def test_processes_are_recycled_after_their_items() -> None:
    async with running(Sandbox(1, items_per_process=2)) as sandbox:
        seen = set()
        for _ in range(5):
            await sandbox.decode(encode(noise(8, 8), "PNG"), SMALL, MediaKind.IMAGE)
            seen.update(sandbox.pids)
        assert len(seen) >= 2


async def test_more_requests_than_processes_wait_their_turn() -> None:
    async with running(Sandbox(2)) as sandbox:
        contents = [encode(noise(n, 8), "PNG") for n in range(8, 24)]
        results = await asyncio.gather(*(sandbox.decode(each, SMALL, MediaKind.IMAGE) for each in contents))
        assert [layout.width for _, layout in results] == list(range(8, 24))


async def test_close_leaves_nothing_and_ends_those_who_wait() -> None:
    before = _open_fds()
    sandbox = Sandbox(1)
    await sandbox.start()
    (pid,) = sandbox.pids
    os.kill(pid, signal.SIGSTOP)
    calls = [
        asyncio.create_task(sandbox.decode(encode(noise(64, 64), "PNG"), SMALL, MediaKind.IMAGE)) for _ in range(3)
    ]
    await asyncio.sleep(0)
    await sandbox.close()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(outcomes[0], MediaError)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes[1:])
    with pytest.raises(Unavailable):
        await sandbox.decode(b"x", SMALL, MediaKind.IMAGE)
    assert not psutil.pid_exists(pid) and not psutil.Process().children()
    assert _open_fds() == before


async def test_a_replacement_under_way_is_not_left_behind() -> None:
    before = _open_fds()
    sandbox = Sandbox(2, items_per_process=1)
    await sandbox.start()
    await asyncio.gather(*(sandbox.decode(encode(noise(8, 8), "PNG"), SMALL, MediaKind.IMAGE) for _ in range(2)))
    await sandbox.close()
    assert not psutil.Process().children()
    assert _open_fds() == before


async def test_a_process_that_cannot_start_fails_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _open_fds()
    monkeypatch.setattr("workers.media.decode_process._MODULE", "workers.media.no_such_module")
    with pytest.raises(Exception, match="decode process ended"):
        await Sandbox(2).start()
    assert not psutil.Process().children()
    assert _open_fds() == before


async def test_a_reply_out_of_bounds_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.media.decode_process.OUTPUT_BYTES", 100)
    async with running(Sandbox(1)) as sandbox:
        with pytest.raises(MediaError):
            await sandbox.decode(encode(noise(8, 8), "PNG"), SMALL, MediaKind.IMAGE)


@asynccontextmanager
async def running(sandbox: Sandbox) -> AsyncIterator[Sandbox]:
    await sandbox.start()
    try:
        yield sandbox
    finally:
        await sandbox.close()


def _in_process(content: bytes) -> tuple[np.ndarray, Layout]:
    arrays = []

    def allocate(shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        arrays.append(np.empty(shape, dtype))
        return arrays[-1]

    layout = image_tiles(io.BytesIO(content), SMALL, allocate)
    return arrays[0], layout


def _status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def _open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))
