"""The library's processor of a checkpoint: its chat template, and pictures as its model takes them.

torchvision is not among our dependencies: pictures go through the library's image processors on Pillow. What it needs
torchvision for, clips, is put together from frames in `library_clips`.
"""

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from workers.models.base import ModelError

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of prompt text with the placeholders of one encoding, and what the vision tower takes for it.

    token: the placeholder, found in `text` as often as the encoding has rows.
    """

    text: str
    token: str
    inputs: Inputs


class LibraryProcessor:
    """One checkpoint's processor. Raises ModelError when transformers has none, or cannot run it here."""

    def __init__(self, folder: Path, config: Any) -> None:
        """config: the library's config object of the model."""
        self.folder = folder
        self.model_type = str(config.model_type)
        self.library = _load(folder, config)
        self.tokenizer = self.library.tokenizer
        tokens = {kind: getattr(self.library, f"{kind}_token", None) for kind in ("image", "video")}
        self.media_tokens = {kind: str(token) for kind, token in tokens.items() if token}
        if "image" not in self.media_tokens:
            raise ModelError(f"{folder}: the processor of this model names no image token")
        self._template = getattr(self.library, "chat_template", None) or self.tokenizer.chat_template
        if not self._template:
            raise ModelError(f"{folder}: the checkpoint has no chat template")

    def apply_template(self, conversation: list[dict[str, Any]], *, add_generation_prompt: bool) -> str:
        """The conversation as the checkpoint's template renders it, in the library's Jinja sandbox."""
        is_continued = not add_generation_prompt and conversation[-1]["role"] == "assistant"
        rendered: str = self.tokenizer.apply_chat_template(
            conversation,
            chat_template=self._template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=is_continued,
        )
        return rendered

    def reference_inputs(self, text: str, pictures: Sequence[Image.Image]) -> dict[str, Tensor]:
        """What the library itself gives its model for a rendered prompt, `input_ids` among it."""
        bos = self.tokenizer.bos_token
        is_begun = bos is not None and text.startswith(bos)
        found = copy.copy(self.library)(
            images=[list(pictures)] if pictures else None,
            text=[text],
            return_tensors="pt",
            add_special_tokens=not is_begun,
        )
        return dict(found)

    def images(self, pictures: Sequence[Image.Image]) -> list[Piece]:
        """One piece for each picture of a request. They go together: some models see one picture closer than two."""
        if not pictures:
            return []
        token = self.media_tokens["image"]
        recorder = copy.copy(self.library)
        recorder(images=[list(pictures)], text=token * len(pictures), return_tensors="pt")
        parts = split_inputs(recorder.recorded, len(pictures))
        return [Piece(text, token, part) for text, part in zip(recorder.replacements, parts, strict=True)]


def split_inputs(inputs: Inputs, count: int) -> list[dict[str, Tensor]]:
    """What belongs to each of `count` pictures.

    Entries of `count` rows have one for each picture, those of all patches' rows as many as the picture has patches,
    and others (the number of pictures of the request) hold for all. Raises ValueError for an entry that is neither.
    """
    if count == 1:
        return [dict(inputs)]
    num_rows = _patch_counts(inputs)
    split: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for name, value in inputs.items():
        if len(value) == count:
            parts = list(value.split(1))
        elif num_rows is not None and len(value) == sum(num_rows):
            parts = list(value.split(num_rows))
        elif len(value) == 1:
            parts = [value] * count
        else:
            raise ValueError(f"{name} of {len(value)} rows cannot be divided among {count} pictures")
        for part, own in zip(parts, split, strict=True):
            own[name] = part
    return split


def _patch_counts(inputs: Inputs) -> list[int] | None:
    if "num_patches" in inputs:
        return [int(number) for number in inputs["num_patches"]]
    grids = inputs.get("image_grid_thw")
    return None if grids is None else [int(number) for number in grids.prod(-1)]


def _load(folder: Path, config: Any) -> Any:
    from transformers import AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    try:
        processor_class: Any = PROCESSOR_MAPPING[type(config)]
        parts = {
            "image_processor": _image_processor_class(folder).from_pretrained(folder, local_files_only=True),
            "tokenizer": AutoTokenizer.from_pretrained(folder, local_files_only=True),
            "video_processor": None,
        }
        settings, _ = processor_class.get_processor_dict(folder, local_files_only=True)
        names = processor_class.get_attributes()
        library = _recording(processor_class).from_args_and_dict([parts[name] for name in names], settings)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{folder}: transformers' processor of this model cannot be used ({reason})") from error
    library.tokenizer = _OneAtATime(library.tokenizer)
    return library


def _image_processor_class(folder: Path) -> Any:
    """The Pillow-backed class of what the checkpoint names. Not by AutoImageProcessor: that one asks for torchvision up
    to some release of the library, whichever class is wanted. Raises KeyError where there is none."""
    from transformers.models.auto import image_processing_auto as auto

    name = auto.get_image_processor_config(folder, local_files_only=True)["image_processor_type"]
    base = name.removesuffix("Fast").removesuffix("Pil")
    found = auto.get_image_processor_class_from_name(base + "Pil")
    if found is None:
        raise KeyError(f"{name} has no variant on Pillow")
    return found


def _recording(processor_class: Any) -> Any:
    """The class, keeping what its image processor returned and the texts that placeholders become.

    It takes None for the video processor, which the library would not have without torchvision.
    """

    class Recording(processor_class):  # type: ignore[misc]
        replacements: list[str] = []
        recorded: dict[str, Tensor] = {}

        def check_argument_for_proper_class(self, argument_name: str, argument: object) -> type:
            return type(argument)

        def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
            text: str = super().replace_image_token(image_inputs, image_idx, **kwargs)
            self.recorded = dict(image_inputs)
            self.replacements = [*self.replacements, text]
            return text

    return Recording


class _OneAtATime:
    """The library's fast tokenizers set their padding before each call and are not safe in two threads at once."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return self._tokenizer(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)
