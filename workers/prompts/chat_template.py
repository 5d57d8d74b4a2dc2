"""A checkpoint's own chat template, with what people wrote kept apart from what the template writes.

The template sees a mark in place of each text: private-use characters around a number, behind and before the text's own
white space, so that a template which trims does so as ever. The rendered prompt falls apart at the marks again. No
text is ever searched for control tokens or media, wherever the template puts it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from workers.prompts.messages import TOOLS_ROLE, ChatMessage, Control, Image, Text
from workers.prompts.render import SYSTEM_ROLES
from workers.tokenizers.base import Run

_MARK = re.compile("\ue0f0([0-9]+)\ue0f1")


class TemplateError(ValueError):
    """The template refused the conversation; the message is what it said."""


@dataclass(frozen=True, slots=True)
class MediaToken:
    """Where the template put the next picture or clip."""

    kind: Literal["image", "video"]


class ApplyTemplate(Protocol):
    """The library's `apply_chat_template`: conversation -> text, rendered in a sandbox."""

    def __call__(self, conversation: list[dict[str, Any]], *, add_generation_prompt: bool) -> str:
        """Without a generation prompt a last assistant message stays open, to be continued."""
        ...


def render_template(
    apply: ApplyTemplate, messages: Sequence[ChatMessage], media_tokens: dict[str, str], add_generation_prompt: bool
) -> list[Run | MediaToken]:
    """The prompt as runs of control and plain text with marks for media.

    media_tokens: kind -> the token by which the template names a medium. Raises TemplateError.
    """
    texts: list[Run] = []
    conversation = [_message(message, texts) for message in _with_tools_told(messages)]
    try:
        rendered = apply(conversation, add_generation_prompt=add_generation_prompt)
    except Exception as error:  # Jinja's errors, and whatever a template does to values that it did not expect
        raise TemplateError(str(error)[:300]) from error
    return list(_divide(rendered, texts, media_tokens))


def _with_tools_told(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """What tells of the tools as the end of the system message, of which templates expect but one."""
    told: list[ChatMessage] = []
    for message in messages:
        if message.role == TOOLS_ROLE and told and told[-1].role in SYSTEM_ROLES:
            before = told.pop()
            told.append(ChatMessage(before.role, (*before.parts, Control("\n\n"), *message.parts)))
        else:
            told.append(message)
    return told


def _message(message: ChatMessage, texts: list[Run]) -> dict[str, Any]:
    role = "system" if message.role in SYSTEM_ROLES else message.role
    parts: list[dict[str, str]] = []
    is_joined = False
    for part in message.parts:
        if not isinstance(part, Text | Control):
            parts.append({"type": "image" if isinstance(part, Image) else "video"})
            continue
        # What a form has around a text belongs to it: templates may set the parts of a message apart.
        is_joined = is_joined or isinstance(part, Control)
        if is_joined and parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += _marked(part, texts)
        else:
            parts.append({"type": "text", "text": _marked(part, texts)})
        is_joined = isinstance(part, Control)
    return {"role": role, "content": parts}


def _marked(part: Text | Control, texts: list[Run]) -> str:
    text = part.text
    core = text.strip()
    if not core:
        return text
    head, tail = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    texts.append(Run(core, isinstance(part, Control)))
    return f"{head}\ue0f0{len(texts) - 1}\ue0f1{tail}"


def _divide(rendered: str, texts: Sequence[Run], media_tokens: dict[str, str]) -> Iterator[Run | MediaToken]:
    pieces = _MARK.split(rendered)
    for index, piece in enumerate(pieces):
        if index % 2:
            yield texts[int(piece)]
        elif piece:
            yield from _control(piece, media_tokens)


def _control(text: str, media_tokens: dict[str, str]) -> Iterator[Run | MediaToken]:
    names = {token: kind for kind, token in media_tokens.items()}
    pattern = "|".join(re.escape(token) for token in sorted(names, key=len, reverse=True))
    for piece in re.split(f"({pattern})", text) if names else [text]:
        if piece in names:
            yield MediaToken("image" if names[piece] == "image" else "video")
        elif piece:
            yield Run(piece, True)
