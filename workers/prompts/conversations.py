"""Conversation formats as data: what stands around the system text and the turns. No code that renders."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from workers.prompts.messages import ENVIRONMENT_ROLE, PLUGIN_ROLE

INTERNVL2_SYSTEM = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
INTERNVL2_5_SYSTEM = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)


@dataclass(frozen=True, slots=True)
class Turn:
    """What surrounds one turn: `opening`, then for a turn with content `gap`, the content and `closing`."""

    opening: str
    closing: str
    gap: str = ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """One format. The prompt is the system turn, the turns of both sides, and an assistant opening to answer at.

    stop: the text of the one token that ends an answer. others: turns of roles that only this format has.
    """

    system: Turn
    user: Turn
    assistant: Turn
    stop: str
    default_system: str
    others: Mapping[str, Turn] = field(default_factory=dict)


def _chatml(separator: str, default_system: str) -> Conversation:
    return Conversation(
        system=Turn("<|im_start|>system\n", separator),
        user=Turn("<|im_start|>user\n", separator),
        assistant=Turn("<|im_start|>assistant\n", separator),
        stop="<|im_end|>",
        default_system=default_system,
        others={
            PLUGIN_ROLE: Turn("<|im_start|>system name=<|plugin|>\n", separator),
            ENVIRONMENT_ROLE: Turn("<|im_start|>environment name=<|plugin|>\n", separator),
        },
    )


CONVERSATIONS = {
    "Hermes-2": _chatml("<|im_end|>", INTERNVL2_SYSTEM),
    "internlm2-chat": _chatml("<|im_end|>", INTERNVL2_SYSTEM),
    "internvl2_5": _chatml("<|im_end|>\n", INTERNVL2_5_SYSTEM),
    "phi3-chat": Conversation(
        system=Turn("<|system|>\n", "<|end|>"),
        user=Turn("<|user|>\n", "<|end|>"),
        assistant=Turn("<|assistant|>\n", "<|end|>"),
        stop="<|end|>",
        default_system=INTERNVL2_SYSTEM,
    ),
    "internvl_zh": Conversation(
        system=Turn("", " "),
        user=Turn("<human>:", " ", gap=" "),
        assistant=Turn("<bot>:", "</s>", gap=" "),
        stop="</s>",
        default_system="",
    ),
}
"""By the name that a checkpoint's config.json gives as `template`."""
