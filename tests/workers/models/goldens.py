"""The golden checkpoints as the tests of models see them: cases, expected tensors, tiles, the loaded model."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tests.goldens.expected import reference_logprobs
from workers.media.tiling import choose_grid, count_tiles, write_tiles
from workers.models.base import VisionLanguageModel
from workers.weights.load import load_model

LEAN = Path(__file__).parents[2] / "goldens"
FULL = Path(os.environ["GLIMPSED_GOLDENS"]) if "GLIMPSED_GOLDENS" in os.environ else None
SETS = (
    "internvl2-internlm2",
    "internvl2-internlm2-longrope",
    "internvl2_5-qwen2",
    "internvl2-qwen2",
    "internvl-chat-v1-5",
    "internvl-chat-v1-5-int8",
    "internvl-chat-v1-1",
    "internvl-chat-v1-2",
    "internvl2-phi3",
)


@dataclass(frozen=True)
class Case:
    """One conversation of a golden set, its results, and where its media lie."""

    set_name: str
    raw: dict[str, Any]

    @property
    def name(self) -> str:
        return self.raw["name"]

    @property
    def ids(self) -> Tensor:
        return torch.tensor(self.raw["input_ids"])

    @property
    def greedy_ids(self) -> list[int]:
        return self.raw["greedy_ids"]

    @property
    def media_urls(self) -> list[str]:
        """Media of the conversation, in order."""
        contents = [message["content"] for message in self.raw["messages"] if isinstance(message["content"], list)]
        return [part[part["type"]]["url"] for parts in contents for part in parts if part["type"] != "text"]

    @property
    def can_run(self) -> bool:
        return all(media_path(url) is not None for url in self.media_urls)

    def expected(self, tensor: str) -> Tensor:
        return expected_tensors(self.set_name)[f"{self.name}/{tensor}"]

    def logprobs(self) -> Tensor:
        """float64 [steps, vocabulary]; minus infinity where the lean copy does not know."""
        return reference_logprobs(expected_tensors(self.set_name), self.name)

    def tiles(self) -> Tensor:
        """uint8 [N, S, S, 3], all media after one another."""
        config = read_json(self.set_name, "checkpoint/config.json")
        options = self.raw["options"]
        return torch.cat([media_tiles(url, options, config) for url in self.media_urls])


def cases(set_names: Sequence[str] = SETS) -> list[Case]:
    """Every case of some sets; the InternVL-Chat ones unless others are named."""
    return [Case(name, raw) for name in set_names for raw in read_json(name, "case.json")["cases"]]


def find_case(set_name: str, name: str) -> Case:
    """One case by name."""
    return next(case for case in cases([set_name]) if case.name == name)


def set_path(set_name: str) -> Path:
    """The folder of a set: the full one where it is at hand and the lean copy has no weights of it."""
    is_whole = (LEAN / set_name / "expected.safetensors").is_file() or FULL is None
    return LEAN / set_name if is_whole else FULL / set_name


@cache
def read_json(set_name: str, path: str) -> dict[str, Any]:
    """A JSON file of a set."""
    return json.loads((set_path(set_name) / path).read_text(encoding="utf-8"))


@cache
def expected_tensors(set_name: str) -> dict[str, Tensor]:
    """All expected tensors of a set; only the full one has those of cases whose pictures are not ours."""
    return load_file((set_path(set_name) if FULL is None else FULL / set_name) / "expected.safetensors")


@cache
def model(set_name: str) -> VisionLanguageModel:
    """The set's model on the CPU in float32; shared, as it holds no state of a request."""
    return load_model(set_path(set_name) / "checkpoint", torch.device("cpu"))


@cache
def context_id(set_name: str) -> int:
    """The id that stands for one visual token."""
    return read_json(set_name, "checkpoint/added_tokens.json")["<IMG_CONTEXT>"]


def media_path(url: str) -> Path | None:
    """Where a case's picture lies; None when it is in the full set only and that is not at hand."""
    for root in (LEAN, FULL):
        if root is not None and (root / url).is_file():
            return root / url
    return None


def media_tiles(url: str, options: dict[str, Any], config: dict[str, Any]) -> Tensor:
    """The tiles of one picture or of the frames that the case names."""
    path = media_path(url)
    assert path is not None
    size = config["force_image_size"]
    if "frame_indices" in options:
        with av.open(path) as container:
            frames = [frame.to_image() for frame in container.decode(video=0)]
        return torch.cat([_tiles(frames[index], (1, 1), False, size) for index in options["frame_indices"]])
    with Image.open(path) as picture:
        rgb = picture.convert("RGB")
    grid = choose_grid(rgb.width, rgb.height, 1, options["max_num"], size)
    return _tiles(rgb, grid, config["use_thumbnail"], size)


def _tiles(picture: Image.Image, grid: tuple[int, int], use_thumbnail: bool, size: int) -> Tensor:
    tiles = np.empty((count_tiles(grid, use_thumbnail), size, size, 3), dtype=np.uint8)
    write_tiles(picture, grid, tiles)
    return torch.from_numpy(tiles)
