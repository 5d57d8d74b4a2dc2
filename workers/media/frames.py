"""Which frames of a clip are looked at. Pure; the formula is that of the InternVL model cards (`get_index`).

That formula counts frames and takes them for evenly spaced. Where they are not, a part of a clip or a rate can only be
had by time stamps: `frames_at_times`.
"""

import bisect
from collections.abc import Sequence


def is_even(times_s: Sequence[float], average_fps: float) -> bool:
    """Whether each frame stands within half a frame of where its number says."""
    return all(abs(time_s * average_fps - index) <= 0.5 for index, time_s in enumerate(times_s))


def frames_at_times(
    times_s: Sequence[float],
    num_frames: int,
    fps: float | None,
    start_s: float | None,
    end_s: float | None,
) -> list[int]:
    """The frames that are shown in the middle of equal stretches of start_s..end_s, for any spacing of frames.

    times_s: when each frame begins, rising from 0; two at least; the last one is shown for as long as the mean of the
    others. Numbers of frames as in `frame_indices`. Raises ValueError where the part holds nothing.
    """
    last_s = times_s[-1] + times_s[-1] / (len(times_s) - 1)
    begin_s = max(0.0, start_s or 0.0)
    stop_s = last_s if end_s is None else min(end_s, last_s)
    if num_frames < 1 or begin_s >= stop_s:
        raise ValueError("the requested part lies outside the clip or is empty")
    if fps is not None:
        num_frames = max(1, min(num_frames, round((stop_s - begin_s) * fps)))
    step_s = (stop_s - begin_s) / num_frames
    moments_s = (begin_s + step_s * (k + 0.5) for k in range(num_frames))
    return [max(0, bisect.bisect_right(times_s, moment_s) - 1) for moment_s in moments_s]


def frame_indices(
    frame_count: int,
    average_fps: float,
    num_frames: int,
    fps: float | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
) -> list[int]:
    """`num_frames` indices below `frame_count`, rising, one from the middle of each equal segment.

    Short clips repeat frames. With `fps` the number follows from the length of the part: round(seconds * fps), at least
    one and at most `num_frames`. Raises ValueError where the part start_s..end_s holds no frame.
    """
    if frame_count < 1 or num_frames < 1:
        raise ValueError("there are no frames to choose from")
    start = 0 if start_s is None else max(0, round(start_s * average_fps))
    end = frame_count - 1 if end_s is None else min(round(end_s * average_fps), frame_count - 1)
    if start > end:
        raise ValueError("the requested part lies outside the clip or is empty")
    if fps is not None:
        seconds = (end - start + 1) / average_fps
        num_frames = max(1, min(num_frames, round(seconds * fps)))
    segment = (end - start) / num_frames
    # Python rounds half to even, as the reference's numpy does.
    return [int(start + segment / 2 + round(segment * k)) for k in range(num_frames)]
