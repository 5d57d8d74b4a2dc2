"""Views of InternVideo2-Chat against torch's own resizes and the rules of the model cards."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from workers.media.transforms import TRANSFORMS
from workers.media.types import ImageViewsOptions, VideoOptions, VideoViewsOptions, ViewCut
from workers.media.views import Canvas, count_views, plan_canvas, resize_bicubic, write_views

SIZE = 28


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture)).float().permute(2, 0, 1)[None]


def array(pixels: torch.Tensor) -> np.ndarray:
    return pixels[0].permute(1, 2, 0).numpy()


def views_of(picture: np.ndarray, cut: ViewCut) -> np.ndarray:
    canvas = plan_canvas(picture.shape[1], picture.shape[0], cut)
    views = np.empty((count_views(canvas), cut.image_size, cut.image_size, 3), np.float32)
    write_views(picture, canvas, views)
    return views


@pytest.mark.parametrize("target", [(28, 56), (200, 31), (61, 47), (1, 1), (90, 7)])
def test_the_plain_resize_is_torchs(target: tuple[int, int]):
    picture = noise(61, 47)
    expected = F.interpolate(tensor(picture), size=target, mode="bicubic", align_corners=False)
    np.testing.assert_allclose(resize_bicubic(picture, *target), array(expected), atol=2e-3)


@pytest.mark.parametrize(("height", "width"), [(61, 47), (47, 130), (28, 28), (20, 33), (9, 9)])
def test_the_middle_square_is_that_of_torchs_antialiased_resize(height: int, width: int):
    picture = noise(height, width)
    short = min(height, width)
    target = (int(SIZE * height / short), int(SIZE * width / short))
    resized = F.interpolate(tensor(picture), size=target, mode="bicubic", align_corners=False, antialias=True)
    top, left = round((target[0] - SIZE) / 2), round((target[1] - SIZE) / 2)
    expected = array(resized)[top : top + SIZE, left : left + SIZE]
    np.testing.assert_allclose(views_of(picture, ViewCut(SIZE))[0], expected, atol=5e-3)


def test_squares_come_row_by_row_and_the_whole_last():
    picture = noise(2 * SIZE, 3 * SIZE)
    views = views_of(picture, ViewCut(SIZE, is_hd=True, max_squares=6))
    assert len(views) == 7
    for index, square in enumerate(views[:-1]):
        row, column = divmod(index, 3)
        expected = picture[row * SIZE :, column * SIZE :][:SIZE, :SIZE]
        np.testing.assert_allclose(square, expected, atol=1e-3)
    expected = F.interpolate(tensor(picture), size=(SIZE, SIZE), mode="bicubic", align_corners=False)
    np.testing.assert_allclose(views[-1], array(expected), atol=2e-3)


@pytest.mark.parametrize(
    ("width", "height", "cut", "expected"),
    [
        (640, 480, ViewCut(224, True, 6), Canvas(3, 2, 0, 448)),
        (448, 448, ViewCut(224, True, 6), Canvas(2, 2, 0, 448)),
        (100, 100, ViewCut(224, True, 6), Canvas(1, 1, 0, 224)),
        (480, 640, ViewCut(224, True, 6, columns=2, rows=1), Canvas(2, 1, 0, 224)),
        (640, 480, ViewCut(224, True, 6, True), Canvas(2, 2, 56, 336)),
        (480, 640, ViewCut(224, True, 6, True), Canvas(2, 2, 56, 336, is_turned=True)),
        (1920, 1080, ViewCut(224, True, 6, True), Canvas(3, 2, 35, 378)),
        (4000, 20, ViewCut(224, True, 6, True), Canvas(6, 1, 109, 6)),
        (8000, 41, ViewCut(224, True, 1, True), Canvas(1, 1, 111, 1)),
        (640, 480, ViewCut(224), None),
    ],
)
def test_canvases_follow_the_model_card(width: int, height: int, cut: ViewCut, expected: Canvas | None):
    assert plan_canvas(width, height, cut) == expected


def test_a_padded_picture_lies_between_white_bars():
    cut = ViewCut(SIZE, is_hd=True, max_squares=1, is_padded=True)
    view = views_of(np.zeros((20, 40, 3), np.uint8), cut)[0]
    rows = view.mean(axis=(1, 2))
    assert (rows[:7] == 255).all() and (rows[7:21] == 0).all() and (rows[21:] == 255).all()


def test_a_tall_picture_is_turned_and_back():
    cut = ViewCut(SIZE, is_hd=True, max_squares=1, is_padded=True)
    picture = noise(30, 20)
    height = int(SIZE / 1.5)
    top = (SIZE - height) // 2
    turned = resize_bicubic(picture[::-1, ::-1], height, SIZE)[::-1, ::-1]
    np.testing.assert_array_equal(views_of(picture, cut)[0][SIZE - top - height : SIZE - top], turned)


def test_an_image_is_a_clip_of_one_frame():
    file = io.BytesIO()
    Image.fromarray(noise(30, 60)).save(file, "PNG")
    file.seek(0)
    options = ImageViewsOptions(ViewCut(SIZE, is_hd=True, max_squares=6))
    made: list[np.ndarray] = []

    def allocate(shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        made.append(np.empty(shape, dtype))
        return made[0]

    layout = TRANSFORMS[ImageViewsOptions](file, options, allocate)
    assert made[0].shape == (3, 1, SIZE, SIZE, 3) and made[0].dtype == np.float32
    assert (layout.tile_counts, layout.width, layout.height) == ((3,), 60, 30)


def test_frames_that_are_sampled_twice_are_there_twice():
    frames = [Image.fromarray(np.full((30, 40, 3), 40 * index, np.uint8)) for index in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=100)
    file.seek(0)
    options = VideoViewsOptions(ViewCut(SIZE, is_hd=True, columns=2, rows=1), VideoOptions(SIZE, 6))
    made: list[np.ndarray] = []

    def allocate(shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        made.append(np.full(shape, -1, dtype))
        return made[0]

    layout = TRANSFORMS[VideoViewsOptions](file, options, allocate)
    # Segments of a third of a frame: half to even puts their middles here.
    shown = (made[0][0].mean(axis=(1, 2, 3)) / 40).round().astype(int).tolist()
    assert shown == [0, 0, 1, 1, 1, 2] and made[0].shape == (3, 6, SIZE, SIZE, 3)
    assert len(layout.timestamps_s) == 6
