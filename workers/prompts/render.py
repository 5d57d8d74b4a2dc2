"""Messages to a prompt's text: runs of control and plain text, with marks where media go. Knows no tokenizer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workers.prompts.conversations import Conversation, Turn
from workers.prompts.messages import ChatMessage, Image, Part, Text, Video
from workers.tokenizers.base import Run

SYSTEM_ROLES = frozenset({"system", "developer"})


@dataclass(frozen=True, slots=True)
class MediaMark:
    """Where visual tokens go: one span for the named (media index, frame) items, in this order."""

    items: tuple[tuple[int, int], ...]


PromptItem = Run | MediaMark


def render(
    conversation: Conversation,
    system: str,
    messages: Sequence[ChatMessage],
    num_frames: Sequence[int],
    add_generation_prompt: bool = True,
    combine_images: bool = False,
) -> list[PromptItem]:
    """The whole prompt.

    system: the system text unless the messages begin with their own. num_frames: per media item (1 for an image).
    Each message becomes a turn of its own, also where two of one side follow each other; tool results and late system
    messages speak as the user. Without a generation prompt a last assistant message stays open, to be continued.
    combine_images: all pictures share one span, at the place of the first.
    """
    content = _Content(num_frames, _picture_groups(messages, combine_images))
    num_leading = next((i for i, m in enumerate(messages) if m.role not in SYSTEM_ROLES), len(messages))
    system_items: list[PromptItem] = [] if num_leading else [Run(system)]
    for index, message in enumerate(messages[:num_leading]):
        system_items += [Run("\n")] if index else []
        system_items += content.items(message.parts)
    items = [Run(conversation.system.opening, True), *system_items, Run(conversation.system.closing, True)]
    turns = messages[num_leading:]
    for index, message in enumerate(turns):
        is_assistant = message.role == "assistant"
        turn = conversation.assistant if is_assistant else conversation.user
        is_open = is_assistant and index == len(turns) - 1 and not add_generation_prompt
        items += _turn(turn, list(content.items(message.parts)), is_open)
    if add_generation_prompt:
        items.append(Run(conversation.assistant.opening, True))
    return items


def _picture_groups(messages: Sequence[ChatMessage], combine: bool) -> dict[int, tuple[int, ...]]:
    """For each picture that keeps its place: the pictures whose tiles go there."""
    pictures = [part.index for message in messages for part in message.parts if isinstance(part, Image)]
    return {pictures[0]: tuple(pictures)} if combine and pictures else {index: (index,) for index in pictures}


def _turn(turn: Turn, content: list[PromptItem], is_open: bool) -> Iterator[PromptItem]:
    yield Run(turn.opening, True)
    # The reference renders a turn without text as its bare role.
    if any(isinstance(item, MediaMark) or item.text for item in content):
        yield Run(turn.gap, True)
        yield from content
        if not is_open:
            yield Run(turn.closing, True)


@dataclass(frozen=True, slots=True)
class _Content:
    """Turns the parts of a message into prompt items."""

    num_frames: Sequence[int]
    picture_groups: dict[int, tuple[int, ...]]

    def items(self, parts: Sequence[Part]) -> Iterator[PromptItem]:
        for part in parts:
            if isinstance(part, Text):
                yield Run(part.text)
            elif isinstance(part, Video):
                for frame in range(self.num_frames[part.index]):
                    yield Run(f"Frame{frame + 1}: ", True)
                    yield MediaMark(((part.index, frame),))
                    yield Run("\n", True)
            elif part.index in self.picture_groups:
                yield MediaMark(tuple((index, 0) for index in self.picture_groups[part.index]))
                yield Run("\n", True)
