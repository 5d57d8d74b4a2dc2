"""Prompts of the InternVL-Chat family: a conversation format, a tokenizer and the size of a tile, put together."""

from collections.abc import Mapping, Sequence
from typing import Any

from workers.prompts.conversations import CONVERSATIONS
from workers.prompts.messages import ChatMessage
from workers.prompts.placeholders import PromptIds, build_prompt
from workers.prompts.render import render
from workers.tokenizers.base import Tokenizer, TokenizerError


class InternVLPrompts:
    """Builds prompts for one checkpoint."""

    def __init__(
        self, tokenizer: Tokenizer, template_name: str, system_message: str | None, tokens_per_tile: int
    ) -> None:
        """system_message: the checkpoint's own; None: the format's. Raises TokenizerError for an unknown format."""
        if template_name not in CONVERSATIONS:
            raise TokenizerError(
                f"unknown conversation template {template_name!r}: known are {', '.join(CONVERSATIONS)}"
            )
        self._tokenizer = tokenizer
        self._conversation = CONVERSATIONS[template_name]
        self._system = self._conversation.default_system if system_message is None else system_message
        self._tokens_per_tile = tokens_per_tile
        stop_id = tokenizer.token_id(self._conversation.stop)
        if stop_id is None:
            raise TokenizerError(
                f"the tokenizer has no {self._conversation.stop} token, which ends a {template_name} turn"
            )
        self.stop_text = self._conversation.stop
        self.stop_token_ids = (stop_id,)

    def build(
        self,
        messages: Sequence[ChatMessage],
        media_tile_counts: Sequence[Sequence[int]],
        add_generation_prompt: bool = True,
        combine_images: bool = False,
    ) -> PromptIds:
        """The prompt's ids. media_tile_counts: [tiles] for an image, [tiles of each frame] for a video, in media order.

        combine_images: V1-5's way, all pictures in one span. Raises ValueError when media and messages do not match.
        """
        num_frames = [len(counts) for counts in media_tile_counts]
        items = render(self._conversation, self._system, messages, num_frames, add_generation_prompt, combine_images)
        return build_prompt(items, media_tile_counts, self._tokens_per_tile, self._tokenizer)


def configured_system_message(config: Mapping[str, Any]) -> str | None:
    """The system text that a checkpoint's config.json sets, or None.

    A JSON null counts as set: the reference formats it into the prompt, where it reads `None`.
    """
    return str(config["system_message"]) if "system_message" in config else None
