"""Which frames of a clip are looked at. Pure; the formula is that of the InternVL model cards (`get_index`)."""


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
