"""Sequences for scheduler tests: random but repeatable tokens, pictures by content."""

import random
from collections.abc import Callable

from workers.engine.plan import StepPlan
from workers.engine.sequence import MediaInput, Sequence

PLACEHOLDER = 1000


def prompt(
    request_id: str,
    num_tokens: int,
    max_new_tokens: int = 4,
    media: tuple[MediaInput, ...] = (),
    priority: int = 0,
    seed: int = 0,
    emitted: tuple[int, ...] = (),
    rope_regime: Callable[[int], int] | None = None,
    stop_id: int | None = None,
) -> Sequence:
    """A prompt of which every (id, length) pair has its own tokens unless the seeds are equal."""
    rng = random.Random(seed or request_id)
    token_ids = [rng.randrange(100, 900) for _ in range(num_tokens)]
    for item in media:
        token_ids[item.start : item.end] = [PLACEHOLDER] * item.length
    return Sequence(
        request_id,
        [*token_ids, *emitted],
        num_tokens,
        num_tokens + max_new_tokens,
        media,
        priority=priority,
        rope_regime=rope_regime,
        sampling=stop_id,
    )


def picture(start: int, length: int, content: bytes) -> MediaInput:
    return MediaInput(start, length, key=content + b"-key", tiles=content)


def clip(start: int, num_frames: int, frame_length: int, content: bytes, gap: int = 1) -> tuple[MediaInput, ...]:
    """Frames with `gap` tokens of text between them; they share one encoding."""
    whole = num_frames * frame_length
    return tuple(
        MediaInput(
            start + frame * (frame_length + gap),
            frame_length,
            key=content + b"-key",
            tiles=content,
            offset=frame * frame_length,
            num_encoded=whole,
        )
        for frame in range(num_frames)
    )


def chunks_of(plan: StepPlan) -> list[tuple[str, int, int, bool]]:
    return [(chunk.seq.request_id, chunk.start, chunk.length, chunk.samples) for chunk in plan.chunks]
