"""InternVideo2-Chat's golden cases as the family prepares them: media through the transforms, prompt, inputs."""

import io
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from schemas.jobs import MediaOptions
from tests.workers.models.goldens import Case, media_path, read_json, set_path
from workers.engine.sequence import MediaInput
from workers.families.base import Family
from workers.families.registry import open_family
from workers.media.transforms import TRANSFORMS
from workers.media.types import PreparedMedia
from workers.prompts.messages import ChatMessage, Image, Text, Video
from workers.prompts.placeholders import PromptIds
from workers.tokenizers.load import load_tokenizer

CHAT, HD = "internvideo2-chat", "internvideo2-chat-hd"
_HD_OPTIONS = ("hd_num", "padding", "fix_ratio")
_FAMILY_OPTIONS = (*_HD_OPTIONS, "instruction", "use_frame_msg")


@dataclass(frozen=True)
class _Sizes:
    """What a family asks of its model."""

    image_size: int = 224
    tokens_per_tile: int = 96


@cache
def family(set_name: str) -> Family:
    """The request rules of a set's checkpoint; its weights need not be there."""
    folder = set_path(set_name) / "checkpoint"
    config = read_json(set_name, "checkpoint/config.json")
    return open_family(config, load_tokenizer(folder), _Sizes(), folder, set_name)


def request(case: Case) -> MediaOptions:
    """A case's options as a request states them."""
    options = case.raw["options"]
    own = {name: _frozen(value) for name, value in options.items() if name in _FAMILY_OPTIONS}
    return MediaOptions(num_frames=options.get("num_segments"), exif_transpose=False, family=own)


def messages(case: Case) -> list[ChatMessage]:
    """A case's conversation, media numbered."""
    kinds = {"image_url": Image(0), "video_url": Video(0)}
    found = []
    for message in case.raw["messages"]:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        read = tuple(kinds[p["type"]] if p["type"] in kinds else Text(p["text"]) for p in parts)
        found.append(ChatMessage(message["role"], read))
    return found


@cache
def prepared(set_name: str, url: str, options: Any) -> PreparedMedia:
    """A file run through its transform, in this process."""
    path = media_path(url)
    assert path is not None
    arrays: list[np.ndarray] = []

    def allocate(shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        arrays.append(np.zeros(shape, dtype))
        return arrays[0]

    layout = TRANSFORMS[type(options)](io.BytesIO(path.read_bytes()), options, allocate)
    digest = repr((url, options)).encode()
    return PreparedMedia(arrays[0], layout.tile_counts, digest, layout.width, layout.height, layout.timestamps_s)


def media(case: Case) -> list[PreparedMedia]:
    """A case's media, cut as the family says."""
    rules = family(case.set_name)
    is_video = "frame_indices" in case.raw
    options = rules.video_options(request(case)) if is_video else rules.image_options(request(case), "auto")
    return [prepared(case.set_name, url, options) for url in case.media_urls]


def prompt(case: Case) -> PromptIds:
    """A case's prompt as the family builds it."""
    return family(case.set_name).build_prompt(messages(case), media(case), request(case), True)


def media_inputs(case: Case) -> tuple[MediaInput, ...]:
    """What stands at a case's placeholders."""
    built = prompt(case)
    pairs = zip(built.spans, built.inputs, strict=True)
    return tuple(MediaInput(span.start, span.length, own.digest, own.data) for span, own in pairs)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
