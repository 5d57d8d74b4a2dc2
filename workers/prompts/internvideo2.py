"""Prompts of InternVideo2-Chat: what is said about the medium comes first, then the turns.

The text is cut at each view's placeholders and every piece is encoded by itself, with a BOS of its own: so did the
authors' `chat`, and so the models were trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from workers.prompts.messages import ChatMessage, Control, Text
from workers.prompts.render import SYSTEM_ROLES
from workers.tokenizers.base import Run, Tokenizer, TokenizerError

PLACEHOLDER_ID = 0
_END_OF_TURN = "</s>"


@dataclass(frozen=True, slots=True)
class Medium:
    """The one medium of a conversation. note: what is said of it beside the system text."""

    is_video: bool
    num_views: int
    note: str = ""


def frame_note(timestamps_s: Sequence[float]) -> str:
    """What the model cards can tell the model of a clip's sampled frames."""
    times = ", ".join(str(round(seconds, 1)) for seconds in timestamps_s)
    return f"The video contains {len(timestamps_s)} frames sampled at {times} seconds."


def render(
    messages: Sequence[ChatMessage], medium: Medium | None, instruction: str, add_generation_prompt: bool
) -> list[list[Run]]:
    """The prompt's pieces: between each two of them stand the placeholders of one view.

    Leading system messages and the medium's note follow the views; later ones speak as the user. The medium comes first
    whichever turn carried it. Without a generation prompt a last assistant message stays open, to be continued.
    """
    num_leading = next((i for i, m in enumerate(messages) if m.role not in SYSTEM_ROLES), len(messages))
    about = [_text(message) for message in messages[:num_leading]] + ([medium.note] if medium else [])
    note = "\n".join(text for text in about if text).rstrip()
    turns = _turns(messages[num_leading:], add_generation_prompt)
    if medium is None and not note:
        # Nothing but turns: the space that sets each off from what precedes it is not there for the first.
        first = [Run(run.text.lstrip() if run.is_control else run.text, run.is_control) for run in turns[:1]]
        return [[Run(instruction), *first, *turns[1:]]]
    name = "Video" if medium and medium.is_video else "Image"
    num_views = medium.num_views if medium else 0
    marks = [f"<{name}>", *[f"</{name}><{name}>"] * (num_views - 1), f"</{name}>"] if num_views else [""]
    pieces = [[Run(mark, True)] for mark in marks]
    pieces[0] = [Run(instruction), Run("[INST] ", True), *pieces[0]]
    pieces[-1] += [Run(note), Run("[/INST]", True), *turns]
    return pieces


class InternVideo2Prompts:
    """Builds prompts for one checkpoint."""

    def __init__(self, tokenizer: Tokenizer, tokens_per_view: int) -> None:
        """Raises TokenizerError when the tokenizer has no token that ends a turn."""
        stop_id = tokenizer.token_id(_END_OF_TURN)
        if stop_id is None:
            raise TokenizerError(f"the tokenizer has no {_END_OF_TURN} token, which ends a turn")
        self.stop_token_ids = frozenset((stop_id,))
        self._tokenizer = tokenizer
        self._tokens_per_view = tokens_per_view

    def encode(self, pieces: Sequence[Sequence[Run]]) -> tuple[list[int], list[int]]:
        """The prompt's ids, and where the placeholders of each view start."""
        token_ids = self._tokenizer.encode_runs(pieces[0])
        starts = []
        for piece in pieces[1:]:
            starts.append(len(token_ids))
            token_ids += [PLACEHOLDER_ID] * self._tokens_per_view + self._tokenizer.encode_runs(piece)
        return token_ids, starts


def _turns(messages: Sequence[ChatMessage], add_generation_prompt: bool) -> list[Run]:
    runs: list[Run] = []
    for index, message in enumerate(messages):
        if message.role != "assistant":
            runs += [Run(" [INST] ", True), Run(_text(message)), Run(" [/INST]", True)]
            continue
        is_open = index == len(messages) - 1 and not add_generation_prompt
        runs += [Run(_text(message)), Run("" if is_open else _END_OF_TURN, True)]
    return runs


def _text(message: ChatMessage) -> str:
    return "".join(part.text for part in message.parts if isinstance(part, Text | Control))
