"""Gives words a start in what the vision tower already knows.

After the first stage there is a direction in the visual tokens for "red", for "circle", for
"left" and for each character: the weights of the dense heads. The same directions, put into
the word embeddings and the output layer, let one learnt act of looking up and copying serve
every word, instead of each word finding its own way to the picture.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from torch import Tensor

from .dense import CHARACTERS, PARITIES
from .lettering import ALPHABET
from .model import Demo
from .scenes import COLOURS, KINDS

EMBEDDING_NORM = 3.5
OUTPUT_NORM = 0.7
TOKEN_SCALE = 0.25


def _directions(model: Demo) -> dict[str, Tensor]:
    """Token text -> direction in the visual tokens."""
    heads = model.heads
    objects = heads.centre.weight[1:].view(len(KINDS), len(COLOURS), -1)
    kinds, colours = objects.mean(1), objects.mean(0)
    letters = heads.spelling.weight.view(PARITIES, CHARACTERS, -1)[:, 1:].mean(0)
    found = {}
    for names, rows in ((KINDS, kinds), (COLOURS, colours), (ALPHABET, letters)):
        rows = (rows - rows.mean(0)) * heads.norm.weight
        for name, row in zip(names, rows / rows.norm(dim=1, keepdim=True), strict=True):
            found[name if len(name) == 1 else f" {name}"] = row
    rows, columns = heads.place.weight.view(2, heads.cells, -1)
    third = heads.cells // 3
    middle = (columns[third:-third] + rows[third:-third]).mean(0)
    sides = {"left": columns[:third].mean(0), "right": columns[-third:].mean(0), "centre": middle}
    sides |= {"top": rows[:third].mean(0), "bottom": rows[-third:].mean(0)}
    everywhere = heads.place.weight.mean(0)
    for name, side in sides.items():
        side = (side - everywhere * (2 if name == "centre" else 1)) * heads.norm.weight
        found[f" {name}"] = side / side.norm()
    return found


@torch.no_grad()
def ground_words(model: Demo, tokenizer: Tokenizer) -> None:
    """Point the words for kinds, colours, places and characters along what the eyes see.

    The visual tokens are scaled towards the size of the word embeddings as well: the dense
    heads do not mind, and the language model can then add to them as it does to words.
    """
    for parameter in model.mlp1[3].parameters():
        parameter.mul_(TOKEN_SCALE)
    embeddings, outputs = model.language_model.model.embed_tokens.weight, model.language_model.lm_head.weight
    for text, direction in _directions(model).items():
        for form in (text, f"{text}s") if text.strip() in KINDS else (text,):
            ids = tokenizer.encode(form).ids
            if len(ids) == 1:
                embeddings[ids[0]] = embeddings[ids[0]] * 0.5 + direction * EMBEDDING_NORM
                outputs[ids[0]] = outputs[ids[0]] + direction * OUTPUT_NORM
