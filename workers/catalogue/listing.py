"""The families and checkpoints that are known, as tables in JSON files; loads no model code.

families.json and dimensions.json are written by hand, figures.json by `workers.catalogue.measure`.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Figures:
    """One checkpoint in bfloat16. tokens_per_frame: None where a clip's frames have no tokens of their own."""

    num_parameters: int
    weight_bytes: int
    kv_bytes_per_token: int
    context_length: int
    context_extends: bool
    tokens_per_tile: int
    tokens_per_frame: int | None


@dataclass(frozen=True, slots=True)
class Family:
    """architecture: empty for models that only transformers knows. generation: where neither the request nor the
    checkpoint's generation_config.json says."""

    architecture: str
    name: str
    status: str
    backend: str
    media: str
    num_frames: int
    generation: dict[str, float]
    checkpoints: tuple[str, ...]


def read_families() -> list[Family]:
    """All families, in the order in which they are shown."""
    entries = json.loads((FOLDER / "families.json").read_text(encoding="utf-8"))
    return [Family(**{**entry, "checkpoints": tuple(entry["checkpoints"])}) for entry in entries]


def read_figures() -> dict[str, Figures]:
    """By the checkpoint's name."""
    entries = json.loads((FOLDER / "figures.json").read_text(encoding="utf-8"))
    return {name: Figures(**values) for name, values in entries.items()}


def as_json() -> str:
    """Everything, for programs; sizes in bytes and of bfloat16."""
    figures = read_figures()
    families: list[dict[str, Any]] = []
    for family in read_families():
        checkpoints = [{"name": name, **asdict(figures[name])} for name in family.checkpoints]
        families.append({**asdict(family), "checkpoints": checkpoints})
    return json.dumps({"dtype": "bfloat16", "families": families}, indent=2)


def as_text() -> str:
    """Everything, for people."""
    return "\n\n".join("\n".join(_describe(family, read_figures())) for family in read_families()) + "\n\n" + _NOTES


_NOTES = """\
weights, K/V: memory in bfloat16. context: + where the rotary embedding is defined beyond it (--max-model-len).
generation: unless the request or the checkpoint's generation_config.json says otherwise."""
_HEADINGS = ("checkpoint", "parameters", "weights", "K/V of 1k tokens", "context", "tokens/tile", "tokens/frame")


def _describe(family: Family, figures: dict[str, Figures]) -> Iterator[str]:
    title = f"{family.name} ({family.architecture})" if family.architecture else family.name
    generation = ", ".join(f"{name} {value:g}" for name, value in family.generation.items())
    yield title
    yield f"  status      {family.status}"
    yield f"  backend     {family.backend}"
    yield f"  media       {family.media}; {family.num_frames} frames unless the request or checkpoint says otherwise"
    yield f"  generation  {generation}"
    rows = [_HEADINGS, *(_row(name, figures[name]) for name in family.checkpoints)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows if family.checkpoints else ():
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        yield "  " + "  ".join(cells)


def _row(name: str, figures: Figures) -> tuple[str, ...]:
    return (
        name,
        f"{figures.num_parameters / 1e9:.2f} B",
        f"{figures.weight_bytes / 2**30:.1f} GiB",
        f"{1000 * figures.kv_bytes_per_token / 2**20:.0f} MiB",
        f"{figures.context_length}{'+' if figures.context_extends else ''}",
        str(figures.tokens_per_tile),
        "-" if figures.tokens_per_frame is None else str(figures.tokens_per_frame),
    )
