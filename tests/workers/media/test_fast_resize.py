"""The fast filter against the exact one: the bounds that are documented."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from tests.workers.media.clips import clip, turned
from tests.workers.media.test_image import encode, noise
from tests.workers.media.test_pipeline import data_url
from workers.media.cache import MediaCache
from workers.media.fast_resize import write_tiles_fast
from workers.media.fetch import Fetcher
from workers.media.guard import MediaPolicy
from workers.media.pipeline import MediaPipeline
from workers.media.sandbox import Sandbox
from workers.media.tiling import count_tiles, write_tiles
from workers.media.transforms import image_tiles, video_tiles
from workers.media.types import ImageOptions, Layout, VideoOptions


def photograph(width: int, height: int) -> Image.Image:
    """Soft shapes with a camera's noise."""
    random = np.random.default_rng(7)
    small = Image.fromarray(random.integers(0, 256, (height // 16, width // 16, 3), np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((smooth + random.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8))


def checks(width: int, height: int) -> Image.Image:
    squares = np.indices((height, width)).sum(0) // 7 % 2 * 255
    return Image.fromarray(squares.astype(np.uint8)).convert("RGB")


def difference(picture: Image.Image, grid: tuple[int, int], size: int = 112) -> np.ndarray:
    tiles = []
    for write in (write_tiles, write_tiles_fast):
        tiles.append(np.zeros((count_tiles(grid, True), size, size, 3), np.uint8))
        write(picture, grid, tiles[-1])
    return np.abs(tiles[0].astype(int) - tiles[1])


@pytest.mark.parametrize("grid", [(1, 1), (2, 1), (3, 4), (6, 2)])
@pytest.mark.parametrize("size", [(640, 360), (350, 640), (333, 251)])
def test_photographs_differ_by_three_levels_at_most(size: tuple[int, int], grid: tuple[int, int]) -> None:
    off = difference(photograph(*size), grid)
    assert off.max() <= 3 and off.mean() < 0.4


@pytest.mark.parametrize("grid", [(1, 1), (3, 2), (4, 4)])
def test_noise_and_hard_edges_stay_within_the_documented_bound(grid: tuple[int, int]) -> None:
    for picture in (noise(200, 150), checks(200, 150)):
        off = difference(picture, grid)
        assert off.max() <= 32 and off.mean() < 2.4


def footage(frames: list[np.ndarray], fast: bool) -> tuple[np.ndarray, Layout]:
    """Two frames, encoded as 4:2:0 like most clips are, at 112 pixels."""
    file, made = io.BytesIO(), []
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=10, options={"preset": "ultrafast", "crf": "18"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    file.seek(0)

    def allocate(shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        made.append(np.empty(shape, dtype))
        return made[-1]

    layout = video_tiles(file, VideoOptions(112, 2, fast_resize=fast), allocate)
    return made[0].astype(int), layout


def red_and_blue(width: int, height: int) -> np.ndarray:
    squares = np.indices((height, width)).sum(0) // 9 % 2
    return np.array([[255, 0, 0], [0, 0, 255]], np.uint8)[squares]


@pytest.mark.parametrize("size", [(320, 180), (240, 320), (112, 112), (96, 64)])
def test_clips_stay_within_the_documented_bounds(size: tuple[int, int]) -> None:
    soft = [np.asarray(photograph(*size))] * 2
    hard = [red_and_blue(*size)] * 2
    for frames, most, mean in ((soft, 20, 2.5), (hard, 96, 20)):
        (exact, layout), (fast, same_layout) = (footage(frames, is_fast) for is_fast in (False, True))
        off = np.abs(exact - fast)
        assert off.max() <= most and off.mean() < mean and layout == same_layout
        assert (layout.width, layout.height) == size


def test_a_turned_clip_is_turned_after_it_was_scaled() -> None:
    content = turned(clip(num_frames=2, size=(160, 120)), 0, 1, -1, 0)
    made: list[np.ndarray] = []

    def allocate(shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        made.append(np.empty(shape, dtype))
        return made[-1]

    layouts = [video_tiles(io.BytesIO(content), VideoOptions(56, 2, fast_resize=f), allocate) for f in (False, True)]
    assert layouts[0] == layouts[1] and (layouts[0].width, layouts[0].height) == (120, 160)
    assert np.abs(made[0].astype(int) - made[1]).mean() < 2.5


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 1), (200, 1)])
def test_the_smallest_pictures_have_tiles(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, (10, 200, 90))
    tiles = np.zeros((1, 28, 28, 3), np.uint8)
    write_tiles_fast(picture, (1, 1), tiles)
    assert np.abs(tiles.reshape(-1, 3).astype(int) - (10, 200, 90)).max() <= 1


def test_the_exact_filter_is_the_default() -> None:
    content, made = encode(photograph(320, 160), "PNG"), []

    def allocate(shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        made.append(np.empty(shape, dtype))
        return made[-1]

    for fast_resize in (None, False, True):
        image_tiles(io.BytesIO(content), ImageOptions(56, fast_resize=fast_resize), allocate)
    np.testing.assert_array_equal(made[0], made[1])
    assert (made[0] != made[2]).any()


@pytest.mark.parametrize("server_default", [False, True])
async def test_a_request_goes_before_the_servers_default(server_default: bool) -> None:
    pipeline = MediaPipeline(Fetcher(MediaPolicy()), Sandbox(1), MediaCache(16 << 20), fast_resize=server_default)
    await pipeline.start()
    try:
        url = data_url(encode(photograph(320, 160), "PNG"))
        asked = [await pipeline.image(url, ImageOptions(56, fast_resize=fast), "p") for fast in (None, False, True)]
        assert asked[0] is asked[1 + server_default] and asked[1].digest != asked[2].digest
        video = data_url(clip(num_frames=8), "video/mp4")
        clips = [await pipeline.video(video, VideoOptions(28, 4, fast_resize=fast), "p") for fast in (False, True)]
        assert clips[0].digest != clips[1].digest
        assert np.abs(clips[0].tiles.astype(int) - clips[1].tiles).max() <= 32
    finally:
        await pipeline.close()
