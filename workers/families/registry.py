"""Which family's rules go with which architecture. A new family is one module and one line here."""

from collections.abc import Callable
from importlib import import_module

from workers.families.base import Family
from workers.models.base import VisionLanguageModel
from workers.models.config import Config
from workers.models.registry import resolve_architecture
from workers.tokenizers.base import Tokenizer

# architecture -> (module, class); imported when one of its checkpoints is opened
_FAMILIES = {
    "InternVLChatModel": ("workers.families.internvl", "InternVLFamily"),
    "MonoInternVL": ("workers.families.internvl", "InternVLFamily"),
    "HoVLE": ("workers.families.internvl", "InternVLFamily"),
}


def open_family(config: Config, tokenizer: Tokenizer, model: VisionLanguageModel) -> Family:
    """The request rules for a checkpoint that `workers.models.registry` knows."""
    module, class_name = _FAMILIES[resolve_architecture(config)]
    build: Callable[[Config, Tokenizer, int, int], Family] = getattr(import_module(module), class_name)
    return build(config, tokenizer, model.image_size, model.tokens_per_tile)
