"""How many tokens a job's prompt will have. A gateway has no tokenizer, so it learns from what workers report.

For each model: tokens for a character of text, for a picture and for a clip, each a mean that follows the last few
dozen prompts. Prompts of token ids are counted.
"""

from dataclasses import dataclass

from schemas.events import Accepted
from schemas.jobs import ImagePart, Job, TextPart, VideoPart

TOKENS_PER_CHAR = 0.25
TOKENS_PER_IMAGE = 1024.0
TOKENS_PER_VIDEO = 2048.0
"""Where a model's means begin."""
WEIGHT = 0.1
MIN_CHARS = 64
"""Shorter texts tell more of the chat template than of the text."""


@dataclass(slots=True)
class _Means:
    per_char: float = TOKENS_PER_CHAR
    per_image: float = TOKENS_PER_IMAGE
    per_video: float = TOKENS_PER_VIDEO


@dataclass(frozen=True, slots=True)
class PromptSize:
    """What a gateway can count of a prompt."""

    num_chars: int = 0
    num_images: int = 0
    num_videos: int = 0
    num_ids: int = 0


class PromptEstimator:
    """Estimates and learns, by model."""

    def __init__(self) -> None:
        self._means: dict[str, _Means] = {}

    def estimate(self, model: str, size: PromptSize) -> int:
        """The tokens that a prompt of this size should have, at least 1."""
        means = self._means.get(model) or _Means()
        media = size.num_images * means.per_image + size.num_videos * means.per_video
        return max(1, round(size.num_chars * means.per_char + media) + size.num_ids)

    def learn(self, model: str, size: PromptSize, accepted: Accepted) -> None:
        """Take the true counts of an accepted prompt into the means."""
        means = self._means.setdefault(model, _Means())
        num_text = accepted.prompt_tokens - accepted.image_tokens - accepted.video_tokens
        if size.num_chars >= MIN_CHARS and num_text > 0:
            means.per_char += WEIGHT * (num_text / size.num_chars - means.per_char)
        if size.num_images:
            means.per_image += WEIGHT * (accepted.image_tokens / size.num_images - means.per_image)
        if size.num_videos:
            means.per_video += WEIGHT * (accepted.video_tokens / size.num_videos - means.per_video)


def size_of(job: Job) -> PromptSize:
    """What can be counted of a job's prompt."""
    prompt = getattr(job, "prompt", None)
    if isinstance(prompt, str):
        return PromptSize(num_chars=len(prompt))
    if prompt is not None:
        return PromptSize(num_ids=len(prompt))
    parts = [part for message in getattr(job, "messages", ()) for part in message.parts]
    return PromptSize(
        num_chars=sum(len(part.text) for part in parts if isinstance(part, TextPart)),
        num_images=sum(isinstance(part, ImagePart) for part in parts),
        num_videos=sum(isinstance(part, VideoPart) for part in parts),
    )
