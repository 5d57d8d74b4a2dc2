"""Greedy answers from the training modules: for evaluation and tests, not for serving."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .draw import draw_scene
from .model import Demo
from .samples import Writer
from .scenes import Scene
from .shape import Dimensions
from .text import Sight
from .vocabulary import token_id


@torch.no_grad()
def look(model: Demo, dims: Dimensions, scenes: list[Scene]) -> Tensor:
    """Visual tokens of the scenes, one after the other."""
    tiles = torch.from_numpy(np.stack([draw_scene(s, dims.image) for s in scenes])) if scenes else None
    return torch.zeros(0, dims.text_width) if tiles is None else model.tokens(model.patches(tiles)).flatten(0, 1)


@torch.no_grad()
def complete(model: Demo, visual: Tensor, prompts: list[list[int]], end: int, limit: int = 72) -> list[list[int]]:
    """Greedy continuations of prompts that share the same pictures, all at once."""
    rows, done = [list(p) for p in prompts], [False] * len(prompts)
    made: list[list[int]] = [[] for _ in prompts]
    for _ in range(limit):
        longest = max(len(r) for r in rows)
        ids = torch.tensor([r + [0] * (longest - len(r)) for r in rows])
        branches = torch.tensor([[0] * len(r) + [-1] * (longest - len(r)) for r in rows])
        sight = Sight.of(branches, longest, 0, torch.float32)
        positions = torch.arange(longest).expand(len(rows), -1)
        hidden = model.hidden(ids, visual.repeat(len(rows), 1), positions, sight)
        last = hidden[torch.arange(len(rows)), [len(r) - 1 for r in rows]]
        for i, token in enumerate(model.language_model.lm_head(last).argmax(-1).tolist()):
            if done[i] or token == end:
                done[i] = True
                continue
            rows[i].append(token)
            made[i].append(token)
        if all(done):
            break
    return made


def answers(model: Demo, dims: Dimensions, writer: Writer, scenes: list[Scene], prompts: list[str]) -> list[str]:
    """Answers to whole prompts (template included, ``<image>`` for each picture) about the same scenes."""
    end = token_id(writer.tokenizer, "<|im_end|>")
    made = complete(model, look(model, dims, scenes), [writer.prompt_ids(p) for p in prompts], end)
    return [writer.tokenizer.decode(m) for m in made]
