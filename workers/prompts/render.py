"""Messages to a prompt's text: runs of control and plain text, with marks where media go. Knows no tokenizer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workers.prompts.conversations import Conversation
from workers.prompts.messages import TOOLS_ROLE, ChatMessage, Control, Image, Part, Text, Video
from workers.tokenizers.base import Run

SYSTEM_ROLES = frozenset({"system", "developer", TOOLS_ROLE})


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
    Each message becomes a turn of its own, also where two of one side follow each other; late system messages and roles
    that the format does not know speak as the user. Without a generation prompt a last assistant message stays open,
    to be continued.
    combine_images: all pictures share one span, at the place of the first.
    """
    content = _Content(num_frames, _picture_groups(messages, combine_images))
    num_leading = next((i for i, m in enumerate(messages) if m.role not in SYSTEM_ROLES), len(messages))
    own_system = [message for message in messages[:num_leading] if message.role != TOOLS_ROLE]
    system_items: list[PromptItem] = [] if own_system else [Run(system)]
    for index, message in enumerate(own_system):
        system_items += [Run("\n")] if index else []
        system_items += content.items(message.parts)
    for message in messages[:num_leading]:
        if message.role == TOOLS_ROLE:
            system_items += [Run("\n\n")] if _has_content(system_items) else []
            system_items += content.items(message.parts)
    items = [Run(conversation.system.opening, True), *system_items, Run(conversation.system.closing, True)]
    turns = messages[num_leading:]
    for index, message in enumerate(turns):
        is_open = message.role == "assistant" and index == len(turns) - 1 and not add_generation_prompt
        items += _turn(conversation, message.role, list(content.items(message.parts)), is_open)
    if add_generation_prompt:
        items.append(Run(conversation.assistant.opening, True))
    return items


def _picture_groups(messages: Sequence[ChatMessage], combine: bool) -> dict[int, tuple[int, ...]]:
    """For each picture that keeps its place: the pictures whose tiles go there."""
    pictures = [part.index for message in messages for part in message.parts if isinstance(part, Image)]
    return {pictures[0]: tuple(pictures)} if combine and pictures else {index: (index,) for index in pictures}


def _turn(conversation: Conversation, role: str, content: list[PromptItem], is_open: bool) -> Iterator[PromptItem]:
    turn = conversation.assistant if role == "assistant" else conversation.others.get(role, conversation.user)
    yield Run(turn.opening, True)
    # The reference renders a turn without text as its bare role.
    if _has_content(content) or role in conversation.others:
        yield Run(turn.gap, True)
        yield from content
        if not is_open:
            yield Run(turn.closing, True)


def _has_content(items: Sequence[PromptItem]) -> bool:
    return any(isinstance(item, MediaMark) or item.text for item in items)


@dataclass(frozen=True, slots=True)
class _Content:
    """Turns the parts of a message into prompt items."""

    num_frames: Sequence[int]
    picture_groups: dict[int, tuple[int, ...]]

    def items(self, parts: Sequence[Part]) -> Iterator[PromptItem]:
        for part in parts:
            if isinstance(part, Text):
                yield Run(part.text)
            elif isinstance(part, Control):
                yield Run(part.text, True)
            elif isinstance(part, Video):
                for frame in range(self.num_frames[part.index]):
                    yield Run(f"Frame{frame + 1}: ", True)
                    yield MediaMark(((part.index, frame),))
                    yield Run("\n", True)
            elif part.index in self.picture_groups:
                yield MediaMark(tuple((index, 0) for index in self.picture_groups[part.index]))
                yield Run("\n", True)
