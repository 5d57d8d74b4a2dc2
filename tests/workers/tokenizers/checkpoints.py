"""The golden checkpoints whose tokenizers and prompts are tested, and what is recorded for them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from workers.tokenizers.base import Tokenizer
from workers.tokenizers.load import load_tokenizer

GOLDENS = Path(__file__).parents[2] / "goldens"
NAMES = (
    "internvl2-internlm2",
    "internvl2-internlm2-longrope",
    "internvl2_5-qwen2",
    "internvl2-qwen2",
    "internvl-chat-v1-5",
    "internvl-chat-v1-1",
    "internvl-chat-v1-2",
    "internvl2-phi3",
)


def checkpoint(name: str) -> Path:
    return GOLDENS / name / "checkpoint"


@cache
def tokenizer(name: str) -> Tokenizer:
    return load_tokenizer(checkpoint(name))


@cache
def recorded(name: str) -> dict[str, Any]:
    return json.loads((GOLDENS / name / "case.json").read_text(encoding="utf-8"))


def config(name: str) -> dict[str, Any]:
    return json.loads((checkpoint(name) / "config.json").read_text(encoding="utf-8"))
