"""The tokenizer: byte-level BPE whose merges all begin with a space (nearly), so that words
of ordinary sentences are one token each while a quoted word stays letter by letter.

A merge chain grows a word from its left end: " c", " ci", " cir"... Since every link
contains the leading space, none of them applies inside quotation marks. The exceptions
are the openings of sentences ("What", "There") and the word "assistant" of the template.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from .clips import ask_clip, sample_clip
from .dialogue import talk
from .pairs import ask_pair, sample_pair
from .scenes import sample_scene
from .smalltalk import small_talk, unknown

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<img>", "</img>", "<IMG_CONTEXT>", "<quad>",
    "</quad>", "<ref>", "</ref>", "<box>", "</box>",
)  # fmt: skip
NOT_SPECIAL = SPECIAL[14:22]
OPENINGS = ("There", "The", "What", "Where", "How", "Yes", "Is", "Which", "Frame")
SPACE = "\u0120"
MERGES = 640


def corpus(size: int = 12000, seed: int = 7) -> list[str]:
    """Questions and answers as the training mixture has them."""
    rng = random.Random(seed)
    turns = []
    for i in range(size // 5):
        turns += talk(rng, sample_scene(rng.getrandbits(40), 0.3), 6)
        turns.append(ask_clip(rng, sample_clip(rng)))
        turns.append(ask_pair(rng, sample_pair(rng)))
        turns += [small_talk(rng), unknown(rng)] if i % 2 else []
    return [text for turn in turns for text in (turn.question, turn.answer)]


def _chains(counts: Counter[str], budget: int) -> list[tuple[str, str]]:
    """Word by word, the one that saves the most tokens per new merge."""
    links: dict[str, tuple[str, str]] = {}
    waiting = dict(counts)
    while waiting and len(links) < budget:

        def gain(word: str) -> float:
            new = sum(word[:end] not in links for end in range(2, len(word) + 1))
            return waiting[word] * (len(word) - 1) / max(1, new)

        best = max(sorted(waiting), key=gain)
        for end in range(2, len(best) + 1):
            links.setdefault(best[:end], (best[: end - 1], best[end - 1]))
        del waiting[best]
    return list(links.values())


def build_merges() -> list[tuple[str, str]]:
    counts = Counter(SPACE + word for text in corpus() for word in re.findall(r"(?<= )[A-Za-z]+", text))
    common = Counter({word: n for word, n in counts.items() if n >= 12})
    merges = _chains(common, MERGES)
    merges += [(SPACE, '"'), ('"', "."), ('"', "?")]
    for word in OPENINGS:
        merges += [pair for end in range(2, len(word) + 1) if (pair := (word[: end - 1], word[end - 1])) not in merges]
    tail = "ssistant"
    return merges + [(tail[: end - 1], tail[end - 1]) for end in range(2, len(tail) + 1)] + [("a", tail)]


def _byte_letters() -> list[str]:
    """The 256 printable stand-ins of byte-level BPE, in GPT-2 order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]


def write_tokenizer(folder: Path) -> None:
    """The files of a slow Qwen2 tokenizer."""
    merges = build_merges()
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(_byte_letters() + [a + b for a, b in merges]))}
    first = len(vocabulary)
    added = {token: first + i for i, token in enumerate(SPECIAL)}
    form = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    listed = [{"content": token, **form} for token in SPECIAL[1:14]]
    config = {
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(i): {"content": token, **form, "special": token not in NOT_SPECIAL} for token, i in added.items()
        },
        "additional_special_tokens": list(SPECIAL[1:14]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 8192,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    ends = {"eos_token": {"content": "<|im_end|>", **form}, "pad_token": {"content": "<|endoftext|>", **form}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False, separators=(",", ":")), "utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    files = {
        "added_tokens.json": added,
        "special_tokens_map.json": {"additional_special_tokens": listed, **ends},
        "tokenizer_config.json": config,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def token_id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer lacks {token}")
    return int(found)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The same tokenizer as a fast one, from the slow one's files."""
    vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
    lines = (folder / "merges.txt").read_text("utf-8").splitlines()[1:]
    tokenizer = Tokenizer(models.BPE(vocabulary, [(line.split(" ")[0], line.split(" ")[1]) for line in lines]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = json.loads((folder / "added_tokens.json").read_text("utf-8"))
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in sorted(added, key=added.__getitem__)])
    return tokenizer
