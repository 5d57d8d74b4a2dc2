"""Any other vision-language model: transformers' own classes, its text backbone joined to our paged K/V pool.

The backbone calls the attention function registered here, which hands queries, keys and values to `Step.attend`; vision
features are the library's. Nothing of a checkpoint is ever executed. transformers is imported when a model is loaded.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workers.attention.base import Step
from workers.models.base import KVSpec, ModelError
from workers.models.config import parse_rope
from workers.models.generic_rope import LengthAwareRotary
from workers.models.rope import Rope, RopeSpec

ATTENTION_NAME = "glimpsed_paged"
_LENGTH_DEPENDENT = ("dynamic", "longrope")


class GenericModel:
    """A model of the library's image-text-to-text classes; see `VisionLanguageModel`.

    It encodes what the library's processor made of a medium (`encode_inputs`) instead of tiles.
    """

    image_size = 0
    tokens_per_tile = 0

    def __init__(self, model: Any, folder: Path) -> None:
        """model: an instance in evaluation mode on its device. Raises ModelError where its backbone does not fit."""
        self.folder = folder
        self.library_model = model
        self.device = model.device
        self.dtype = model.dtype
        self._backbone = _backbone_of(model)
        self._own_attention = self._backbone.config._attn_implementation
        self._head = model.get_output_embeddings()
        self._embedding = model.get_input_embeddings()
        self._inner = getattr(model, "model", model)
        self._has_grid_positions = hasattr(self._inner, "get_rope_index")
        text = self._backbone.config
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.hidden_size = int(text.hidden_size)
        self.vocab_size = int(self._head.weight.shape[0])
        self.max_position_embeddings = int(text.max_position_embeddings)
        self._rope, self._rotary = self._replace_rotary(text, head_dim)
        self.rope_extends = self._rope is not None
        kv_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        self.kv_spec = KVSpec(text.num_hidden_layers, kv_heads, head_dim, _sliding_window(text))
        self.use_paged_attention()

    def encode_inputs(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What a processor made of one picture or clip -> [tokens, H] on the model's device."""
        pixels, function = "pixel_values", self._inner.get_image_features
        if "pixel_values_videos" in inputs:
            pixels, function = "pixel_values_videos", self._inner.get_video_features
        known = set(inspect.signature(function).parameters) - {pixels}
        rest = {name: value.to(self.device) for name, value in inputs.items() if name in known}
        found = function(inputs[pixels].to(self.device), **rest).pooler_output
        features = found if isinstance(found, Tensor) else torch.cat(list(found))
        return features.reshape(-1, self.hidden_size).to(self.dtype)

    def grid_positions(self, token_ids: Tensor, token_types: Tensor, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """M-RoPE positions int64 [3, T] of a prompt; None where the model's positions are plain.

        token_types: int64 [T], 0 text, 1 image, 2 video. inputs: of all media, as the processor made them.
        """
        if not self._has_grid_positions or not bool(token_types.any()):
            return None
        known = inspect.signature(self._inner.get_rope_index).parameters
        grids = {name: value for name, value in inputs.items() if name in known}
        positions, _ = self._inner.get_rope_index(token_ids[None], mm_token_type_ids=token_types[None], **grids)
        grid: Tensor = positions[:, 0]
        return grid

    def encode_tiles(self, pixels: Tensor) -> Tensor:
        """This model takes no tiles: see `encode_inputs`."""
        raise TypeError("a generic model encodes what its processor made, not tiles")

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """int64 [T] -> [T, H], a new tensor."""
        embedded: Tensor = self._embedding(ids)
        return embedded

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        """[T, H] -> [T, H] with the final norm applied."""
        positions = step.positions[None] if step.grid_positions is None else step.grid_positions[:, None]
        if self._rotary is not None:
            self._rotary.rope_lens = step.rope_lens
        result = self._backbone(inputs_embeds=hidden[None], position_ids=positions, use_cache=False, step=step)
        states: Tensor = result.last_hidden_state[0]
        return states

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """[R, H] -> float32 [R, V]."""
        logits: Tensor = self._head(hidden)
        return logits.float()

    def rope_regime(self, length: int) -> int:
        """0 while a sequence of this length is rotated as a short one is."""
        return self._rope.regime(length) if self._rope is not None else 0

    def use_paged_attention(self) -> None:
        """The backbone's layers call `Step.attend`: how the engine runs."""
        from transformers import AttentionInterface

        AttentionInterface.register(ATTENTION_NAME, attend_through_step)
        self._backbone.set_attn_implementation(ATTENTION_NAME)

    def use_own_attention(self) -> None:
        """The library's own attention again, for comparing with."""
        if self._rotary is not None:
            self._rotary.rope_lens = None
        self._backbone.set_attn_implementation(self._own_attention)

    def _replace_rotary(self, text: Any, head_dim: int) -> tuple[RopeSpec | None, LengthAwareRotary | None]:
        """The library looks at the longest position of a whole batch; where that decides frequencies, ours stand in."""
        parameters = getattr(text, "rope_parameters", None) or {}
        if parameters.get("rope_type", "default") not in _LENGTH_DEPENDENT:
            return None, None
        if self._has_grid_positions:
            raise ModelError("config.json: M-RoPE with frequencies that depend on the length is not supported")
        if getattr(text, "partial_rotary_factor", None) not in (None, 1.0):
            raise ModelError("config.json: partial_rotary_factor below 1 is not supported with this rope type")
        spec = parse_rope(text.to_dict(), head_dim)
        rotary = LengthAwareRotary(Rope(spec, head_dim, self.device, torch.float32))
        self._backbone.rotary_emb = rotary
        return spec, rotary


def attend_through_step(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    step: Step,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """The library's attention signature: query [1, heads, T, d], key, value [1, kv heads, T, d] -> [1, T, heads, d].

    `step` travels from the call of the backbone. Raises ModelError for what a `Step` cannot do.
    """
    if attention_mask is not None or softcap is not None:
        raise ModelError("the model's attention has a mask or a soft cap of its own, which the engine does not know")
    heads, length, head_dim = query.shape[1:]
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    default = head_dim**-0.5
    if scaling is not None and abs(scaling - default) > 1e-6 * default:
        q = q * (scaling / default)
    layer: Any = module.layer_idx
    return step.attend(layer, q, k, v).view(1, length, heads, head_dim), None


def _backbone_of(model: Any) -> Any:
    if model.config.is_encoder_decoder:
        raise ModelError(f"config.json: {type(model).__name__} is an encoder with a decoder, which is not supported")
    backbone = model.get_decoder()
    if not hasattr(backbone, "layers") or not hasattr(backbone, "rotary_emb"):
        raise ModelError(f"config.json: the text backbone of {type(model).__name__} is not supported")
    if not hasattr(getattr(model, "model", model), "get_image_features"):
        raise ModelError(f"config.json: {type(model).__name__} has no image features apart from its text backbone")
    return backbone


def _sliding_window(text: Any) -> int | None:
    """The one window of all layers, or None. Raises ModelError where layers differ."""
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    kinds = set(getattr(text, "layer_types", None) or ())
    if kinds - {"full_attention", "sliding_attention"} or len(kinds) > 1:
        raise ModelError(f"config.json: layers of kinds {', '.join(sorted(kinds))} together are not supported")
    if kinds == {"full_attention"} or window is None or window >= text.max_position_embeddings:
        return None
    return int(window)
