from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.media.frames import frame_indices, frames_at_times, is_even


def test_indices_equal_the_reference(preprocess: dict[str, Any]) -> None:
    for video in preprocess["videos"]:
        for case in video["indices"]:
            start_s, end_s = case["bound"] or (None, None)
            indices = frame_indices(video["num_frames"], video["avg_fps"], case["num_segments"], None, start_s, end_s)
            assert indices == case["frame_indices"], (video["video"], case["bound"], case["num_segments"])


def test_fps_sets_the_number_of_frames_up_to_the_most_allowed() -> None:
    assert len(frame_indices(90, 30.0, 64, fps=2.0)) == 6
    assert len(frame_indices(90, 30.0, 4, fps=2.0)) == 4
    assert len(frame_indices(90, 30.0, 64, fps=0.01)) == 1
    assert len(frame_indices(90, 30.0, 64, fps=2.0, start_s=1.0, end_s=1.9)) == 2


@pytest.mark.parametrize(("start_s", "end_s"), [(5.0, None), (2.0, 1.0), (4.0, 9.0)])
def test_a_part_without_frames_is_refused(start_s: float, end_s: float | None) -> None:
    with pytest.raises(ValueError):
        frame_indices(90, 30.0, 8, None, start_s, end_s)


@pytest.mark.parametrize(("frame_count", "num_frames"), [(0, 8), (8, 0)])
def test_nothing_to_choose_from_is_refused(frame_count: int, num_frames: int) -> None:
    with pytest.raises(ValueError):
        frame_indices(frame_count, 30.0, num_frames)


@given(st.integers(1, 5000), st.integers(1, 600), st.floats(0.1, 240))
def test_indices_rise_and_stay_inside_the_clip(frame_count: int, num_frames: int, average_fps: float) -> None:
    indices = frame_indices(frame_count, average_fps, num_frames)
    assert len(indices) == num_frames
    assert indices == sorted(indices)
    assert 0 <= indices[0] and indices[-1] < frame_count


def test_even_spacing_is_told_from_uneven() -> None:
    assert is_even([k / 29.97 for k in range(1000)], 29.97)
    assert is_even([round(k / 30, 3) for k in range(1000)], 30.0)
    assert not is_even([0.0, 0.1, 0.2, 5.0], 10.0)
    assert is_even([0.0], 1.0)


UNEVEN_S = [0.0, 0.1, 0.2, 0.3, 4.0, 8.0]


@pytest.mark.parametrize(
    ("num_frames", "fps", "part", "indices"),
    [
        (4, None, (None, None), [3, 3, 4, 5]),
        (64, 1.0, (None, None), [3, 3, 3, 3, 4, 4, 4, 4, 5, 5]),
        (4, 1.0, (None, None), [3, 3, 4, 5]),
        (2, None, (4.0, 8.0), [4, 4]),
        (3, None, (0.0, 0.3), [0, 1, 2]),
        (1, None, (7.9, 99.0), [5]),
    ],
)
def test_uneven_frames_are_those_shown_at_equal_times(
    num_frames: int, fps: float | None, part: tuple[float | None, float | None], indices: list[int]
) -> None:
    assert frames_at_times(UNEVEN_S, num_frames, fps, *part) == indices


@pytest.mark.parametrize("part", [(99.0, None), (4.0, 4.0), (5.0, 4.0)])
def test_a_part_of_uneven_frames_that_holds_nothing_is_refused(part: tuple[float, float | None]) -> None:
    with pytest.raises(ValueError):
        frames_at_times(UNEVEN_S, 4, None, *part)
