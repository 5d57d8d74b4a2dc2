"""Golden cases as requests: what to send, and what the authors' own code gave.

The lean copy in tests/goldens holds what this repository may carry. GLIMPSED_GOLDENS names the full set; then its cases
are used, those with media that the lean copy lacks included.
"""

import base64
import json
import mimetypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

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
    "internvideo2-chat",
)
OWN_OPTIONS = ("image_join", "hd_num", "padding", "fix_ratio", "instruction", "use_frame_msg")
OPTIONS = {
    "max_num": ("mm_processor_kwargs", "max_dynamic_patch"),
    **{name: ("mm_processor_kwargs", name) for name in OWN_OPTIONS},
}


@dataclass(frozen=True)
class Golden:
    """One case: the request's body without its model, and the expected results. step_logits: [steps, vocabulary]."""

    model: str
    name: str
    body: dict[str, Any]
    prompt_ids: list[int]
    greedy_ids: list[int]
    greedy_text: str | None
    step_logits: torch.Tensor

    def __str__(self) -> str:
        return f"{self.model}/{self.name}"


def load_goldens() -> list[Golden]:
    """All cases of all families whose media are there."""
    return [golden for name in NAMES if (ROOT / name).is_dir() for golden in _load(name)]


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
            step_logits=tensors[f"{case['name']}/step_logits"],
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
        "mm_processor_kwargs": {},
    }
    for option, value in case["options"].items():
        if option in OPTIONS:
            field, name = OPTIONS[option]
            body[field][name] = value
        elif option == "num_segments":
            body["media_io_kwargs"]["video"] = {"num_frames": value}
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
