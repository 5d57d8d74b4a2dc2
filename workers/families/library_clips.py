"""Clips as the library's models take them, from frames that its image processors prepared.

The library's own video processors need torchvision. They scale, normalise and divide each frame as the image
processors do, so the same arrays come of it, but for the rounding of two bicubic filters.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from workers.families.library_processor import LibraryProcessor, Piece

Frames = NDArray[np.uint8]
"""[T, H, W, 3], RGB."""
ClipMaker = Callable[[LibraryProcessor, Frames, float], list[Piece]]
"""Frames and the seconds between them -> the pieces that stand for the clip."""

_QWEN_SIZE = {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28}


def clip_maker(processor: LibraryProcessor) -> ClipMaker | None:
    """How the processor's model sees clips; None where it takes none, or in a way that is not known here."""
    makers: dict[str, ClipMaker] = {
        "internvl": _tile_a_frame,
        "llava_onevision": _pooled_frames,
        "qwen2_vl": _frames_in_pairs,
        "qwen2_5_vl": _frames_in_pairs,
    }
    return makers.get(processor.model_type) if "video" in processor.media_tokens else None


def _tile_a_frame(processor: LibraryProcessor, frames: Frames, seconds: float) -> list[Piece]:
    """InternVL: a line `Frame1: ...` and one tile for each frame, encoded like pictures."""
    tiles = processor.library.image_processor([_pictures(frames)], crop_to_patches=False, return_tensors="pt")
    clip = {"pixel_values_videos": [tiles["pixel_values"]]}
    lines = processor.library.replace_video_token(clip, 0).split("\n")
    token = processor.media_tokens["image"]
    return [
        Piece(line if index == 0 else "\n" + line, token, {"pixel_values": tile})
        for index, (line, tile) in enumerate(zip(lines, tiles["pixel_values"].split(1), strict=True))
    ]


def _pooled_frames(processor: LibraryProcessor, frames: Frames, seconds: float) -> list[Piece]:
    """LLaVA-OneVision: one square a frame, aspect not kept, pooled in the model."""
    images = processor.library.image_processor
    side = (images.size["width"], images.size["height"])
    squares = [picture.resize(side, Image.Resampling(images.resample)) for picture in _pictures(frames)]
    prepared = images([squares], return_tensors="pt")["pixel_values"][:, 0]
    clip = {"pixel_values_videos": prepared[None]}
    return [Piece(processor.library.replace_video_token(clip, 0), processor.media_tokens["video"], clip)]


def _frames_in_pairs(processor: LibraryProcessor, frames: Frames, seconds: float) -> list[Piece]:
    """Qwen2-VL and 2.5: patches that reach over `temporal_patch_size` frames; the last frame fills up."""
    images = processor.library.image_processor
    step, patch = images.temporal_patch_size, images.patch_size
    prepared = images([_pictures(frames)], size=_video_size(processor.folder), return_tensors="pt")
    _, rows, columns = prepared["image_grid_thw"][0].tolist()
    # A picture's patches repeat it along time: one of these is the frame.
    single = prepared["pixel_values"].reshape(len(frames), rows * columns, -1, step, patch * patch)[:, :, :, 0]
    filled = torch.cat([single, single[-1:].expand(-len(frames) % step, -1, -1, -1)])
    grouped = filled.unflatten(0, (-1, step)).permute(0, 2, 3, 1, 4)  # time, patch, channel, frame, pixel
    grid = torch.tensor([[len(grouped), rows, columns]])
    inputs: dict[str, Tensor] = {
        "pixel_values_videos": grouped.reshape(len(grouped) * rows * columns, -1),
        "video_grid_thw": grid,
        "second_per_grid_ts": torch.tensor([step * seconds]),
    }
    token = processor.media_tokens["video"]
    num_tokens = int(grid.prod()) // images.merge_size**2
    return [Piece(token * num_tokens, token, inputs)]


def _video_size(folder: Path) -> Mapping[str, int]:
    """The bounds of a frame's pixels: of the checkpoint's video processor, else those of its pictures."""
    for path, key in _VIDEO_SETTINGS:
        file = folder / path
        settings: Any = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        settings = settings.get(key) or {} if key else settings
        size = dict(settings.get("size") or {})
        least = settings.get("min_pixels") or size.get("shortest_edge")
        most = settings.get("max_pixels") or size.get("longest_edge")
        if least and most:
            return {"shortest_edge": int(least), "longest_edge": int(most)}
    return _QWEN_SIZE


_VIDEO_SETTINGS: Sequence[tuple[str, str]] = (
    ("video_preprocessor_config.json", ""),
    ("processor_config.json", "video_processor"),
    ("preprocessor_config.json", ""),
)


def _pictures(frames: Frames) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in frames]
