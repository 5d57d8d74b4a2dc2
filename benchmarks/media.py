"""How fast media are prepared, against the model cards' code on one thread in the same run.

    python -m benchmarks.media [--pictures 24] [--clips 4]

Pictures: 1920x1080 JPEG, up to 12 tiles of 448. Clips: 1280x720, 30 s of H.264, 64 frames. Pixels of the exact mode are
compared with the reference's bit for bit before anything is timed. The reference is held to one core: decord decodes
in a thread of its own beside the one that asks, which on an idle machine is a second core.
"""

import argparse
import asyncio
import base64
import io
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.media_reference import clip_pixels, normalise, picture_pixels
from benchmarks.report import write_report
from benchmarks.sample_media import moving_clip, photograph
from workers.backends.cpu import keep_freed_memory
from workers.media.pipeline import build_pipeline
from workers.media.sandbox import Sandbox
from workers.media.transforms import TRANSFORMS
from workers.media.types import ImageOptions, MediaKind, MediaOptions, VideoOptions

SIZE, TILES, FRAMES = 448, 12, 64
PICTURE = ImageOptions(SIZE, max_tiles=TILES)
CLIP = VideoOptions(SIZE, FRAMES)
PROCESSES = 2
ROUNDS = 4


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--pictures", type=int, default=24)
    args.add_argument("--clips", type=int, default=4)
    asked = args.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as a worker does on a CPU
    pictures = [photograph(1920, 1080, seed) for seed in range(6)]
    clips = [moving_clip(1280, 720, 30, 0)]
    rows = asyncio.run(measure(pictures, clips, asked.pictures, asked.clips))
    notes = (
        f"{PROCESSES} decode processes; the reference is the model cards' code on one core. Pictures: 1920x1080 "
        f"JPEG, at most {TILES} tiles of {SIZE} and the thumbnail. Clips: 1280x720 H.264, 30 s, {FRAMES} frames. The "
        f"exact mode's pixels equal the reference's. Rates: the best of {ROUNDS} rounds, times: the least of 30."
    )
    write_report("media", "Preparing media", notes, ["figure", "value", "over the reference", "target"], rows)


async def measure(
    pictures: Sequence[bytes], clips: Sequence[bytes], num_pictures: int, num_clips: int
) -> list[tuple[object, ...]]:
    sandbox = Sandbox(PROCESSES)
    await sandbox.start()
    try:
        await check_exact(sandbox, pictures[0], clips[0])
        # Rounds take turns, and the best of each counts: what else the machine does is in the others.
        picture_rates, clip_rates = [], []
        for _ in range(ROUNDS):
            picture_rates.append(await picture_round(sandbox, pictures, num_pictures))
            clip_rates.append(await clip_round(sandbox, clips, num_clips))
        reference, exact, fast = (max(rates) for rates in zip(*picture_rates, strict=True))
        reference_clips, helped, exact_clips, fast_clips = (max(rates) for rates in zip(*clip_rates, strict=True))
        overhead_s = await overhead(sandbox, pictures)
        small_s = await overhead(sandbox, [photograph(320, 240, seed) for seed in range(6)])
    finally:
        await sandbox.close()
    file_s, data_s = await second_use(pictures[0])
    return [
        ("pictures/s, reference", reference, 1.0, ""),
        ("pictures/s, exact", exact, exact / reference, ">= 2"),
        ("pictures/s, fast_resize", fast, fast / reference, ">= 4"),
        ("frames/s of clips, reference", reference_clips * FRAMES, 1.0, ""),
        ("frames/s of clips, reference and a core for decord's thread", helped * FRAMES, helped / reference_clips, ""),
        ("frames/s of clips, exact", exact_clips * FRAMES, exact_clips / reference_clips, ">= 1.8"),
        ("frames/s of clips, fast_resize", fast_clips * FRAMES, fast_clips / reference_clips, ">= 4"),
        ("the sandbox's share of a 1920x1080 picture, ms", overhead_s * 1e3, "", "< 3"),
        ("the sandbox's share of a 320x240 picture, ms", small_s * 1e3, "", "< 3"),
        ("second use of a picture, file to tiles, ms", file_s * 1e3, "", "< 2"),
        ("second use of a picture, data URL to tiles, ms", data_s * 1e3, "", ""),
    ]


async def picture_round(sandbox: Sandbox, pictures: Sequence[bytes], count: int) -> tuple[float, ...]:
    """Pictures per second: the reference, exact, fast."""
    reference = per_second(lambda number: picture_pixels(pictures[number % 6], SIZE, TILES), count // 3)
    fast = replace(PICTURE, fast_resize=True)
    rates = [await pool_rate(sandbox, pictures, each, MediaKind.IMAGE, count) for each in (PICTURE, fast)]
    return (reference, *rates)


@contextmanager
def one_core() -> Iterator[None]:
    """For this thread and those that it starts meanwhile."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


async def clip_round(sandbox: Sandbox, clips: Sequence[bytes], count: int) -> tuple[float, ...]:
    """Clips per second: the reference, the same with a core for decord's thread, exact, fast."""
    with one_core():
        reference = per_second(lambda _: clip_pixels(clips[0], SIZE, FRAMES), 1)
    helped = per_second(lambda _: clip_pixels(clips[0], SIZE, FRAMES), 1)
    fast = replace(CLIP, fast_resize=True)
    rates = [await pool_rate(sandbox, clips, each, MediaKind.VIDEO, count) for each in (CLIP, fast)]
    return (reference, helped, *rates)


async def check_exact(sandbox: Sandbox, picture: bytes, clip: bytes) -> None:
    """Raises AssertionError unless pixels equal the reference's."""
    tiles, _ = await sandbox.decode(picture, PICTURE, MediaKind.IMAGE)
    assert torch.equal(normalise(tiles), picture_pixels(picture, SIZE, TILES)), "pictures differ from the reference"
    frames, _ = await sandbox.decode(clip, CLIP, MediaKind.VIDEO)
    assert torch.equal(normalise(frames), clip_pixels(clip, SIZE, FRAMES)), "clips differ from the reference"


def per_second(work: Callable[[int], object], count: int) -> float:
    began = time.perf_counter()
    for number in range(count):
        work(number)
    return count / (time.perf_counter() - began)


async def pool_rate(
    sandbox: Sandbox, contents: Sequence[bytes], options: MediaOptions, kind: MediaKind, count: int
) -> float:
    """Items per second with as many in flight as the pool takes, and some waiting."""
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            await sandbox.decode(contents[number % len(contents)], options, kind)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(PROCESSES + 1)))
    return count / (time.perf_counter() - began)


async def overhead(sandbox: Sandbox, pictures: Sequence[bytes]) -> float:
    """Seconds that the sandbox adds to a picture, one at a time: the quickest less that of the same work in process."""

    async def inside(content: bytes) -> None:
        await sandbox.decode(content, PICTURE, MediaKind.IMAGE)

    async def outside(content: bytes) -> None:
        TRANSFORMS[ImageOptions](io.BytesIO(content), PICTURE, np.empty, 1)

    return await best_s(inside, pictures) - await best_s(outside, pictures)


async def second_use(picture: bytes) -> tuple[float, float]:
    """Seconds to tiles that are kept already, from a file and from a data URL."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder).resolve() / "picture.jpg"
        file.write_bytes(picture)
        pipeline = build_pipeline(file_root=file.parent, num_processes=1)
        await pipeline.start()
        try:
            first = await pipeline.image(file.as_uri(), PICTURE, "url")

            async def again(url: bytes) -> None:
                assert await pipeline.image(url.decode(), PICTURE, "url") is first

            data_url = b"data:image/jpeg;base64," + base64.b64encode(picture)
            return await best_s(again, [file.as_uri().encode()]), await best_s(again, [data_url])
        finally:
            await pipeline.close()


async def best_s(work: Callable[[bytes], Awaitable[None]], contents: Sequence[bytes], count: int = 30) -> float:
    spent = []
    for number in range(count):
        began = time.perf_counter()
        await work(contents[number % len(contents)])
        spent.append(time.perf_counter() - began)
    return min(spent)


if __name__ == "__main__":
    main()
