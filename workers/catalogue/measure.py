"""What known checkpoints cost, computed from their published dimensions: `python -m workers.catalogue.measure`.

Each model is built on the meta device, where tensors have shapes and no storage; the figures go to figures.json, which
`glimpsed models` shows without loading any of this.
"""

import json
from dataclasses import asdict
from typing import Any

import torch

from workers.catalogue.listing import FOLDER, Family, Figures, read_families
from workers.models.registry import build_model
from workers.weights.sources import MetaSource

# What dimensions.json leaves out because it is the same for all checkpoints of a family; the names in config.json.
_COMMON: dict[str, dict[str, Any]] = {
    "InternVLChatModel": {"force_image_size": 448, "ps_version": "v2"},
    "MonoInternVL": {"architectures": ["InternVLChatModel"], "force_image_size": 448},
    "HoVLE": {"architectures": ["InternVLChatModel"], "force_image_size": 448},
    "PVCInternVLModel": {"force_image_size": 448, "ps_version": "v2"},
}


def published_config(family: Family, name: str) -> dict[str, Any]:
    """The checkpoint's config.json, cut down to what decides sizes."""
    table = json.loads((FOLDER / "dimensions.json").read_text(encoding="utf-8"))
    entry = table["checkpoints"][name]
    config = {"architectures": [family.architecture]} | _COMMON.get(family.architecture, {}) | entry.get("values", {})
    for section in ("vision_config", "embedding_config", "llm_config", "model_config"):
        if section in entry:
            config[section] = dict(table["parts"][entry[section]])
    if "llm_values" in entry:
        config["llm_config"] |= entry["llm_values"]
    return config


def measure(family: Family, name: str) -> Figures:
    """Figures of one checkpoint in bfloat16. Raises ModelError for dimensions that cannot be."""
    config = published_config(family, name)
    source = MetaSource(torch.bfloat16)
    model = build_model(config, source)
    per_frame = model.tokens_per_tile
    return Figures(
        num_parameters=source.num_parameters,
        weight_bytes=source.num_parameters * torch.bfloat16.itemsize,
        kv_bytes_per_token=model.kv_spec.bytes_per_token(torch.bfloat16),
        context_length=model.max_position_embeddings,
        context_extends=model.rope_extends,
        tokens_per_tile=per_frame * int(config.get("image_repeat_time", 1)),
        tokens_per_frame=None if "model_config" in config else per_frame,
    )


def main() -> None:
    """Compute all figures anew."""
    figures = {name: asdict(measure(family, name)) for family in read_families() for name in family.checkpoints}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in figures.items())
    (FOLDER / "figures.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
