"""Parameters that clients know from elsewhere and that cannot be honoured here.

Refusing them by name is kinder than ignoring them: the answer would not be what the client asked for. A value that
asks for nothing (null, an empty list, the documented default) is let through.
"""

from collections.abc import Mapping, Set
from typing import Any

from schemas.errors import ErrorCode, RequestError

_NOTHING: tuple[Any, ...] = (None, [], {}, "", False)

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "allowed_token_ids": _NOTHING,
    "audio": _NOTHING,
    "best_of": (None, 1),
    "chat_template": _NOTHING,
    "chat_template_kwargs": _NOTHING,
    "continue_final_message": _NOTHING,
    "documents": _NOTHING,
    "early_stopping": _NOTHING,
    "echo": _NOTHING,
    "function_call": (None, "none", "auto"),
    "functions": _NOTHING,
    "length_penalty": (None, 1, 1.0),
    "logits_processors": _NOTHING,
    "mm_hashes": _NOTHING,
    "moderation": _NOTHING,
    "multi_modal_uuids": _NOTHING,
    "num_beams": (None, 1),
    "prediction": _NOTHING,
    "prompt_cache_options": _NOTHING,
    "prompt_embeds": _NOTHING,
    "reasoning_effort": (None, "none"),
    "store": _NOTHING,
    "suffix": _NOTHING,
    "tool_choice": (None, "none", "auto"),
    "tools": _NOTHING,
    "use_beam_search": _NOTHING,
    "verbosity": (None, "medium"),
    "web_search_options": _NOTHING,
}
"""Parameter -> the values that ask for nothing."""

_NO_BEAMS = "There is no beam search; with 'temperature' 0 the likeliest token is taken each time."
ADVICE = {
    "best_of": "Ask for 'n' choices with 'logprobs', and take the best of them.",
    "early_stopping": _NO_BEAMS,
    "function_call": "Use 'tool_choice' instead.",
    "functions": "Use 'tools' instead.",
    "length_penalty": _NO_BEAMS,
    "num_beams": _NO_BEAMS,
    "suffix": "Texts are only gone on from; nothing is filled in before an end.",
    "use_beam_search": _NO_BEAMS,
}
"""Parameter -> why it is refused, or what to do instead."""


def without_unsupported(
    body: Mapping[str, Any], honoured: Set[str] = frozenset(), table: Mapping[str, tuple[Any, ...]] = UNSUPPORTED
) -> dict[str, Any]:
    """The body less parameters that ask for nothing. Raises RequestError for one that asks for what is not there.

    honoured: names that this endpoint, unlike others, takes.
    table: what is not there, as UNSUPPORTED says it of chats and completions.
    """
    unsupported = table.keys() - honoured
    for name in body.keys() & unsupported:
        if not _asks_for_nothing(body[name], table[name]):
            message = " ".join(filter(None, (f"Unsupported parameter: '{name}'.", ADVICE.get(name))))
            raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, message, name)
    return {name: value for name, value in body.items() if name not in unsupported}


def _asks_for_nothing(value: object, neutral: tuple[Any, ...]) -> bool:
    # Equal types as well: 0 == False and 1 == True would let a wrong type through.
    return any(type(value) is type(one) and value == one for one in neutral)
