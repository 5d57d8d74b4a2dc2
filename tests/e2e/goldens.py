"""Golden cases as requests: what to send, and what the authors' own code gave.

The lean copy in tests/goldens holds what this repository may carry. GLIMPSED_GOLDENS names the full set; then its cases
are used, those with media that the lean copy lacks included.
"""

import base64
import json
import math
import mimetypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.goldens.expected import reference_logprobs

LEAN = Path(__file__).resolve().parent.parent / "goldens"
ROOT = Path(os.environ.get("GLIMPSED_GOLDENS") or LEAN)

NAMES = (
    "internvl2-internlm2",
    "internvl2-internlm2-longrope",
    "internvl2_5-qwen2",
    "internvl2-qwen2",
    "internvl-chat-v1-5",
    "internvl-chat-v1-5-int8",
    "internvl-chat-v1-1",
    "internvl-chat-v1-2",
    "internvl2-phi3",
    "mono-internvl",
    "mono-internvl-ext",
    "hovle",
    "hovle_hd",
    "pvc",
    "internvideo2-chat",
    "internvideo2-chat-hd",  # the served name makes it HD
)
_FAMILY_OPTIONS = ("image_join", "hd_num", "padding", "fix_ratio", "instruction", "use_frame_msg", "data_flag")
LOGPROB_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Golden:
    """One case: the request's body without its model, and the expected results. logprobs: [steps, vocabulary]."""

    model: str
    name: str
    body: dict[str, Any]
    prompt_ids: list[int]
    greedy_ids: list[int]
    greedy_text: str | None
    logprobs: torch.Tensor

    def __str__(self) -> str:
        return f"{self.model}/{self.name}"


@dataclass(frozen=True)
class Comparison:
    """An answer beside its golden. problems: what is not equal. max_difference: of the natural logarithms of the
    probabilities, over the tokens and the five likeliest of every step; infinite where they cannot be compared."""

    problems: list[str]
    max_difference: float

    @property
    def is_exact(self) -> bool:
        return not self.problems and self.max_difference <= LOGPROB_TOLERANCE


def load_goldens() -> list[Golden]:
    """All cases of all families whose media and expected tensors are there."""
    return [golden for name in NAMES if (ROOT / name / "expected.safetensors").is_file() for golden in _load(name)]


def group_models(goldens: list[Golden], size: int) -> list[list[str]]:
    """The models in groups that a machine serves at a time; those with long cases are together."""
    longest: dict[str, int] = {}
    for golden in goldens:
        longest[golden.model] = max(longest.get(golden.model, 0), len(golden.prompt_ids))
    names = sorted(longest, key=lambda name: longest[name])
    return [names[first : first + size] for first in range(0, len(names), size)]


def tight_pages(goldens: list[Golden], models: list[str]) -> list[str]:
    """Flags for pages for the longest case of these models and little more.

    Of several answers at a time each takes six small pages or so while it grows: they take them from each other.
    """
    lengths = [len(golden.prompt_ids) + len(golden.greedy_ids) for golden in goldens if golden.model in models]
    return ["--block-size", "4", "--num-kv-blocks", str(-(-max(lengths) // 4) + 2)]


def compare(golden: Golden, answer: dict[str, Any]) -> Comparison:
    """Prompt ids, greedy ids and text must be equal; logprobs are compared with those of the reference's logits."""
    choice = answer["choices"][0]
    found = {
        "prompt ids": (answer["prompt_token_ids"], golden.prompt_ids),
        "greedy ids": (choice["token_ids"], golden.greedy_ids),
        "text": (choice["message"]["content"], golden.greedy_text),
    }
    problems = [
        f"{golden}: {what} {ours} instead of {theirs}"
        for what, (ours, theirs) in found.items()
        if theirs is not None and ours != theirs
    ]
    return Comparison(problems, math.inf if problems else _max_difference(golden, choice["logprobs"]["content"]))


def _max_difference(golden: Golden, told: list[dict[str, Any]]) -> float:
    expected = golden.logprobs
    if not len(told) == len(expected) == len(golden.greedy_ids):
        return math.inf
    ours = [[step["logprob"], *(entry["logprob"] for entry in step["top_logprobs"])] for step in told]
    theirs = [[row[i].item(), *row.topk(5).values.tolist()] for i, row in zip(golden.greedy_ids, expected, strict=True)]
    return (torch.tensor(ours, dtype=torch.float64) - torch.tensor(theirs, dtype=torch.float64)).abs().max().item()


def _load(model: str) -> list[Golden]:
    described = json.loads((ROOT / model / "case.json").read_text(encoding="utf-8"))
    tensors = load_file(ROOT / model / "expected.safetensors")
    portable = described.get("greedy_text_portable", True)
    return [
        Golden(
            model=model,
            name=case["name"],
            body=_body(case),
            prompt_ids=case["input_ids"],
            greedy_ids=case["greedy_ids"],
            greedy_text=case["greedy_text"] if case.get("greedy_text_portable", portable) else None,
            logprobs=reference_logprobs(tensors, case["name"]),
        )
        for case in described["cases"]
        if all((ROOT / path).is_file() for path in _media_paths(case))
    ]


def _media_paths(case: dict[str, Any]) -> list[str]:
    parts = [
        part for message in case["messages"] if isinstance(message["content"], list) for part in message["content"]
    ]
    return [part[part["type"]]["url"] for part in parts if part["type"] != "text"]


def _body(case: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "messages": [{**message, "content": _content(message["content"])} for message in case["messages"]],
        "max_tokens": len(case["greedy_ids"]),
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 5,
        "return_token_ids": True,
        # The references never turn a picture.
        "media_io_kwargs": {"image": {"exif_transpose": False}},
    }
    options = case["options"]
    own = {name: options[name] for name in _FAMILY_OPTIONS if name in options}
    body["mm_processor_kwargs"] = {"max_dynamic_patch": options.get("max_num"), **own}
    if "num_segments" in options:
        body["media_io_kwargs"]["video"] = {"num_frames": options["num_segments"]}
    return body


def _content(content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    return [part if part["type"] == "text" else _with_data_url(part) for part in content]


def _with_data_url(part: dict[str, Any]) -> dict[str, Any]:
    kind = part["type"]
    path = ROOT / part[kind]["url"]
    media_type = mimetypes.guess_type(path.name)[0]
    data = base64.b64encode(path.read_bytes()).decode()
    return {"type": kind, kind: {"url": f"data:{media_type};base64,{data}"}}
