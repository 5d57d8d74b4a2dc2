"""Which class serves which checkpoint. A new family is one module and one line here."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from workers.models.base import ModelError, VisionLanguageModel, WeightSource
from workers.models.config import Config, architecture_of, read_config

# architecture -> (module, class); modules are imported when one of their models is asked for
_ARCHITECTURES = {
    "InternVLChatModel": ("workers.models.internvl", "InternVL"),
    "InternVideo2_VideoChat2": ("workers.models.internvideo2", "InternVideo2"),
    "MonoInternVL": ("workers.models.mono_internvl", "MonoInternVL"),
    "HoVLE": ("workers.models.hovle", "HoVLE"),
    "PVCInternVLModel": ("workers.models.pvc", "PVC"),
}
# architecture -> (module, function that adds the configs which the checkpoint keeps in files of their own)
_COMPANIONS = {
    "InternVideo2_VideoChat2": ("workers.models.internvideo2_config", "with_companions"),
}
_MODEL_TYPES = {"internvl_chat": "InternVLChatModel", "pvc_internvl": "PVCInternVLModel"}


def resolve_architecture(config: Config) -> str:
    """The supported architecture that config.json names, by `architectures` or `model_type`. Raises ModelError."""
    name = architecture_of(config)
    found = name if name in _ARCHITECTURES else _MODEL_TYPES.get(str(config.get("model_type")))
    if found == "InternVLChatModel":
        return _internvl_chat_variant(config)
    if found is not None:
        return found
    if is_generic(config):
        return name or str(config["model_type"])
    known = ", ".join(sorted(_ARCHITECTURES))
    raise ModelError(
        f"config.json: architecture {name or config.get('model_type')!r} is not supported; supported: {known}, and "
        "the image-text-to-text models that the installed transformers knows"
    )


def is_generic(config: Config) -> bool:
    """Whether a config is of no family here, but of a model that transformers itself has classes for."""
    model_type = str(config.get("model_type"))
    if architecture_of(config) in _ARCHITECTURES or model_type in _MODEL_TYPES:
        return False
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def _internvl_chat_variant(config: Config) -> str:
    """Families that publish their checkpoints under InternVL-Chat's name give themselves away by their parts."""
    if "embedding_config" in config:
        return "HoVLE"
    if architecture_of(config.get("llm_config") or {}) == "InternLM2VEForCausalLM":
        return "MonoInternVL"
    return "InternVLChatModel"


def read_model_config(folder: Path) -> Config:
    """All that a checkpoint's files say of its model. Raises ModelError."""
    config = read_config(folder)
    module, function = _COMPANIONS.get(resolve_architecture(config), (None, ""))
    if module is None:
        return config
    complete: Callable[[Path, Config], Config] = getattr(import_module(module), function)
    return complete(folder, config)


def build_model(config: Config, weights: WeightSource) -> VisionLanguageModel:
    """The model of a config, its tensors taken from `weights`."""
    module, class_name = _ARCHITECTURES[resolve_architecture(config)]
    build: Callable[[Config, WeightSource], VisionLanguageModel] = getattr(import_module(module), class_name)
    return build(config, weights)
