"""Which family's rules go with which architecture. A new family is one module and one line here."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

from workers.families.base import Checkpoint, Family
from workers.models.base import ModelError, VisionLanguageModel
from workers.models.config import Config
from workers.models.registry import is_generic, resolve_architecture
from workers.tokenizers.base import Tokenizer

# architecture -> (module, class); imported when one of its checkpoints is opened
_FAMILIES = {
    "InternVLChatModel": ("workers.families.internvl", "InternVLFamily"),
    "MonoInternVL": ("workers.families.internvl", "InternVLFamily"),
    "HoVLE": ("workers.families.internvl", "InternVLFamily"),
    "PVCInternVLModel": ("workers.families.pvc", "PVCFamily"),
    "InternVideo2_VideoChat2": ("workers.families.internvideo2", "InternVideo2Family"),
}
NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


def open_family(
    config: Config,
    tokenizer: Tokenizer,
    model: VisionLanguageModel,
    folder: Path | None = None,
    name: str = "",
    options: Mapping[str, str] = NO_OPTIONS,
) -> Family:
    """The request rules for a checkpoint that `workers.models.registry` knows; see `Checkpoint` for the arguments.

    Raises ModelError for an option that the family does not have.
    """
    if is_generic(config):
        _check_options(options, frozenset())
        return import_module("workers.families.generic_open").open_generic_family(tokenizer, model)
    module, class_name = _FAMILIES[resolve_architecture(config)]
    family = getattr(import_module(module), class_name)
    _check_options(options, family.option_names)
    build: Callable[[Checkpoint], Family] = family
    return build(Checkpoint(config, tokenizer, model.image_size, model.tokens_per_tile, folder, name, options))


def _check_options(options: Mapping[str, str], known: frozenset[str]) -> None:
    for name in options:
        if name not in known:
            raise ModelError(f"--model-option {name}: this model has {', '.join(sorted(known)) or 'no options'}")
