"""First stage: the vision tower and projector learn to see, from dense targets alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from .dense import DenseHeads, dense_targets
from .draw import draw_scene
from .loop import Trainer, rate
from .scenes import Scene, sample_crowded, sample_scene
from .shape import Dimensions
from .vision import VisionTower, pixel_shuffle, projector

MEAN = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)
HELD_OUT = 1 << 40
PLAIN_STEPS = 300


def normalise(tiles: Tensor) -> Tensor:
    """uint8 [B, S, S, 3] -> what the tower takes."""
    return (tiles.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def collate(scenes: list[Scene], dims: Dimensions) -> dict[str, Tensor]:
    """Draw the scenes and stack them with their dense targets."""
    targets = [dense_targets(scene, dims.grid) for scene in scenes]
    batch = {key: torch.from_numpy(np.stack([t[key] for t in targets])) for key in targets[0]}
    batch["tiles"] = torch.from_numpy(np.stack([draw_scene(scene, dims.image) for scene in scenes]))
    return batch


def lesson(seed: int, step: int) -> Scene:
    """Plain pictures first; then crowded ones for the most part, for the sake of the letters."""
    if step < PLAIN_STEPS:
        return sample_scene(seed, text_share=0.5)
    return sample_crowded(seed) if seed % 8 < 5 else sample_scene(seed, text_share=0.3)


class Pictures(Dataset):
    """Item ``i`` is the whole batch of step ``i``: any step can be drawn again, in any process."""

    def __init__(self, dims: Dimensions, batch: int, steps: int, seed: int, share: tuple[int, int] = (0, 1)):
        self.dims, self.batch, self.steps, self.seed, self.share = dims, batch, steps, seed, share

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        first = self.seed + step * self.batch
        rank, of = self.share
        return collate([lesson(first + i, step) for i in range(rank, self.batch, of)], self.dims)


class Seer(nn.Module):
    """The part of the model that the first stage trains."""

    def __init__(self, dims: Dimensions):
        super().__init__()
        self.vision_model = VisionTower(dims)
        self.mlp1 = projector(dims)
        self.heads = DenseHeads(dims)

    def losses(self, pictures: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.heads(*self._see(pictures["tiles"]), pictures)

    @torch.no_grad()
    def scores(self, pictures: dict[str, Tensor]) -> dict[str, float]:
        return self.heads.scores(*self._see(pictures["tiles"]), pictures)

    def _see(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Patches and tokens."""
        patches = self.vision_model(normalise(tiles).to(self.vision_model.embeddings.class_embedding.dtype))
        return patches, self.mlp1(pixel_shuffle(patches))


def pretrain(
    rank: int,
    processes: int,
    dims: Dimensions,
    folder: Path,
    steps: int,
    batch: int = 64,
    seed: int = 0,
    decay: float = 0.4,
    rest: float = 0.25,
) -> None:
    """Train for a fixed number of steps; continue from the last save if there is one.

    The learning rate falls to ``rest``, at which the second stage goes on.
    """
    torch.manual_seed(seed)
    trainer = Trainer(Seer(dims), folder, "vision")
    trainer.resume()
    held_out = collate([sample_scene(HELD_OUT + i, text_share=0.5) for i in range(256)], dims)
    data = Pictures(dims, batch, steps, seed + 1, (rank, processes))
    order = range(trainer.step_number, steps)
    for item in DataLoader(data, batch_size=None, sampler=order, num_workers=1, prefetch_factor=6):
        losses = trainer.work.losses(item)
        torch.stack(list(losses.values())).sum().backward()
        trainer.note(**{key: value.item() for key, value in losses.items()})
        trainer.update(rate(trainer.step_number, steps, decay=decay, rest=rest))
        if rank == 0 and (trainer.step_number % 100 == 0 or trainer.step_number == steps):
            trainer.note(**{f"{key}_right": value for key, value in trainer.work.scores(held_out).items()})
            trainer.report()
            trainer.save()
