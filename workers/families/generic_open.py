"""Opens the request rules of a model that transformers knows, and tries them against the library before serving.

The library has many models; what ours cannot do (other masks, features that go into later layers, positions of another
kind) shows as different logits. So a checkpoint is served only if one prompt with a picture and one without give, token
for token, the ids of the library's own processor, and nearly the logits of its own forward.
"""

import logging
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as Pictures
from torch import Tensor

from schemas.errors import RequestError
from schemas.jobs import MediaOptions
from workers.attention.base import Step
from workers.families.generic import GenericFamily
from workers.families.library_clips import ClipMaker, Frames, clip_maker
from workers.families.library_processor import LibraryProcessor
from workers.media.types import PreparedMedia
from workers.models.base import ModelError
from workers.models.generic import GenericModel
from workers.prompts.messages import ChatMessage, Image, Part, Text
from workers.prompts.placeholders import PromptIds
from workers.tokenizers.base import Tokenizer

_MOST_DIFFERENCE = {torch.float32: 1e-3}
_MOST_DIFFERENCE_HALF = 0.1
_PICTURE_SIDE = 96
_QUESTION = "What is this?"

_log = logging.getLogger(__name__)


def open_generic_family(tokenizer: Tokenizer, model: GenericModel) -> GenericFamily:
    """The family of a loaded model. Raises ModelError, one line, where it cannot be served faithfully."""
    library = model.library_model
    processor = LibraryProcessor(model.folder, library.config)
    stop_token_ids = _stop_token_ids(library, processor)
    pixels = np.random.default_rng(0).integers(0, 255, (1, _PICTURE_SIDE, _PICTURE_SIDE, 3), dtype=np.uint8)
    make_clip = _proven_clip_maker(model, processor, pixels)
    family = GenericFamily(processor, tokenizer, model.grid_positions, stop_token_ids, make_clip)
    medium = PreparedMedia(pixels, (1,), b"", _PICTURE_SIDE, _PICTURE_SIDE)
    for media in ([], [medium]):
        parts: list[Part] = [*(Image(index) for index in range(len(media))), Text(_QUESTION)]
        try:
            prompt = family.build_prompt([ChatMessage("user", tuple(parts))], media, MediaOptions(), True)
            _compare(model, processor, prompt, [Pictures.fromarray(item.tiles[0]) for item in media])
        except (RequestError, RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"{type(library).__name__} cannot be served by the generic path ({reason})") from error
    return family


@torch.inference_mode()
def _proven_clip_maker(model: GenericModel, processor: LibraryProcessor, frame: Frames) -> ClipMaker | None:
    """The model's way to see clips, where its tower gives as many rows as the prompt has places for them: releases of
    the library differ in that."""
    make_clip = clip_maker(processor)
    if make_clip is None:
        return None
    try:
        pieces = make_clip(processor, np.concatenate([frame, frame]), 1.0)
        is_sound = all(len(model.encode_inputs(piece.inputs)) == piece.text.count(piece.token) for piece in pieces)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError):
        is_sound = False
    if not is_sound:
        _log.warning("%s: clips are refused, this transformers handles them in another way", model.folder)
    return make_clip if is_sound else None


@torch.inference_mode()
def _compare(
    model: GenericModel, processor: LibraryProcessor, prompt: PromptIds, pictures: list[Pictures.Image]
) -> None:
    content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": _QUESTION}]
    text = processor.apply_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor.reference_inputs(text, pictures)
    if inputs["input_ids"][0].tolist() != prompt.token_ids:
        raise ModelError(f"{model.folder}: our tokenizer and the library's processor disagree about a prompt")
    ours = _logits(model, prompt)
    model.use_own_attention()
    try:
        on_device = {name: value.to(model.device) for name, value in inputs.items()}
        theirs = model.library_model(**on_device, use_cache=False).logits[0, -1].float()
    finally:
        model.use_paged_attention()
    difference = float((ours - theirs).norm() / theirs.norm())
    if not difference < _MOST_DIFFERENCE.get(model.dtype, _MOST_DIFFERENCE_HALF):
        raise ModelError(
            f"{type(model.library_model).__name__} is more than a plain decoder behind a vision tower: its own logits "
            f"and ours differ by {difference:.2g}"
        )


def _logits(model: GenericModel, prompt: PromptIds) -> Tensor:
    """float32 [V] behind the prompt, computed as the engine does."""
    hidden = model.embed_tokens(torch.tensor(prompt.token_ids, device=model.device))
    for span, own in zip(prompt.spans, prompt.inputs, strict=True):
        hidden[span.start : span.start + span.length] = model.encode_inputs(own.data)
    positions = torch.arange(len(hidden), device=model.device)
    step = Step(positions, torch.full_like(positions, len(hidden)), _attend_causally)
    if prompt.grid_positions is not None:
        step.grid_positions = torch.from_numpy(prompt.grid_positions).to(model.device)
    return model.compute_logits(model.forward(hidden, step)[-1:])[0]


def _attend_causally(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One sequence from its first token: see `Attend`."""
    queries, keys, values = (x.transpose(0, 1)[None] for x in (q, k, v))
    mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
    return mixed[0].transpose(0, 1).flatten(1)


def _stop_token_ids(library: Any, processor: LibraryProcessor) -> frozenset[int]:
    """The checkpoint's generation_config.json names them; else its tokenizer's end of sequence."""
    found = library.generation_config.eos_token_id
    if found is None:
        found = processor.tokenizer.eos_token_id
    ids = found if isinstance(found, list) else [found]
    return frozenset(int(token_id) for token_id in ids if token_id is not None)
