"""Which class serves which checkpoint. A new family is one module and one line here."""

from collections.abc import Callable
from importlib import import_module

from workers.models.base import ModelError, VisionLanguageModel, WeightSource
from workers.models.config import Config, architecture_of

# architecture -> (module, class); modules are imported when one of their models is asked for
_ARCHITECTURES = {
    "InternVLChatModel": ("workers.models.internvl", "InternVL"),
    "MonoInternVL": ("workers.models.mono_internvl", "MonoInternVL"),
    "HoVLE": ("workers.models.hovle", "HoVLE"),
}
_MODEL_TYPES = {"internvl_chat": "InternVLChatModel"}


def resolve_architecture(config: Config) -> str:
    """The supported architecture that config.json names, by `architectures` or `model_type`. Raises ModelError."""
    name = architecture_of(config)
    found = name if name in _ARCHITECTURES else _MODEL_TYPES.get(str(config.get("model_type")))
    if found == "InternVLChatModel":
        return _internvl_chat_variant(config)
    if found is not None:
        return found
    known = ", ".join(sorted(_ARCHITECTURES))
    raise ModelError(
        f"config.json: architecture {name or config.get('model_type')!r} is not supported; supported: {known}"
    )


def _internvl_chat_variant(config: Config) -> str:
    """Families that publish their checkpoints under InternVL-Chat's name give themselves away by their parts."""
    if "embedding_config" in config:
        return "HoVLE"
    if architecture_of(config.get("llm_config") or {}) == "InternLM2VEForCausalLM":
        return "MonoInternVL"
    return "InternVLChatModel"


def build_model(config: Config, weights: WeightSource) -> VisionLanguageModel:
    """The model of a config, its tensors taken from `weights`."""
    module, class_name = _ARCHITECTURES[resolve_architecture(config)]
    build: Callable[[Config, WeightSource], VisionLanguageModel] = getattr(import_module(module), class_name)
    return build(config, weights)
