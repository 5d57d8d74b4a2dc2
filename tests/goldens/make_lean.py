"""Make the lean copy of the golden checkpoints that lives in this folder, from the full set.

    python -m tests.goldens.make_lean FULL_SET [NAME ...]

Kept of each set: the checkpoint, case.json, and of the cases whose pictures are ours the visual embeddings and the
likeliest tokens of each step. Left out: the pixel tensors (tests build them from media/), the pictures that are not
ours to pass on, the weights and tensors of one large set, and of tensors that are published and that nothing reads, all
rows but the first. Nothing is ever deleted.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from tests.goldens.expected import shrink
from workers.models.registry import read_model_config
from workers.weights.rules import rules_for

HERE = Path(__file__).parent
INTERNVL_CHAT = (
    "internvl2-internlm2",
    "internvl2-internlm2-longrope",
    "internvl2_5-qwen2",
    "internvl2-qwen2",
    "internvl-chat-v1-5",
    "internvl-chat-v1-5-int8",
    "internvl-chat-v1-1",
    "internvl-chat-v1-2",
    "internvl2-phi3",
)
INTERNVIDEO2_CHAT = ("internvideo2-chat", "internvideo2-chat-hd")
WITHOUT_TENSORS = ("internvideo2-chat-hd",)
FOREIGN_MEDIA = ("example_image1.jpg", "example_image2.jpg")


def copy_set(source: Path, target: Path) -> None:
    """One golden set without its pixel tensors."""
    for file in [source / "case.json", *sorted((source / "checkpoint").rglob("*"))]:
        if file.is_file() and _is_kept(file, source.name):
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    if source.name in WITHOUT_TENSORS:
        return
    _trim_weights(target / "checkpoint")
    with safe_open(source / "expected.safetensors", framework="pt") as expected:
        tensors = {name: expected.get_tensor(name) for name in expected.keys()}
    kept = {}
    for case in json.loads((source / "case.json").read_text(encoding="utf-8"))["cases"]:
        if not _has_foreign_media(case):
            kept |= {name: tensors[name] for name in (f"{case['name']}/visual_embeds",) if name in tensors}
            kept |= shrink(tensors, case["name"])
    save_file(kept, target / "expected.safetensors")


def _trim_weights(checkpoint: Path) -> None:
    """One row of the tensors that the model ignores: their names still have to be known."""
    ignored = rules_for(read_model_config(checkpoint)).ignored
    file = checkpoint / "model.safetensors"
    with safe_open(file, framework="pt") as weights:
        metadata = weights.metadata()
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}
    if any(name.startswith(ignored) for name in tensors):
        trimmed = {name: t[:1].clone() if name.startswith(ignored) else t for name, t in tensors.items()}
        save_file(trimmed, file, metadata=metadata)


def _has_foreign_media(case: dict[str, Any]) -> bool:
    return any(f'media/{name}"' in json.dumps(case["messages"]) for name in FOREIGN_MEDIA)


def _is_kept(file: Path, set_name: str) -> bool:
    if file.name == "tokenizer.json":  # the other tokenizer files say the same
        return set_name not in INTERNVIDEO2_CHAT
    return file.suffix != ".safetensors" or set_name not in WITHOUT_TENSORS


def copy_media(source: Path, target: Path) -> None:
    """The pictures and clips that were drawn for this project."""
    target.mkdir(exist_ok=True)
    for file in sorted(source.iterdir()):
        if file.name not in FOREIGN_MEDIA:
            shutil.copyfile(file, target / file.name)


def main() -> None:
    """Copy the named sets (default: the InternVL-Chat ones) and the media."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("full_set", type=Path)
    parser.add_argument("names", nargs="*", default=INTERNVL_CHAT)
    arguments = parser.parse_args()
    for name in arguments.names:
        copy_set(arguments.full_set / name, HERE / name)
    copy_media(arguments.full_set / "media", HERE / "media")


if __name__ == "__main__":
    main()
