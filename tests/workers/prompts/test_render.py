"""Messages to prompt text, as the family's formats have it."""

import pytest

from workers.prompts.conversations import CONVERSATIONS
from workers.prompts.messages import ChatMessage, Image, Text, Video
from workers.prompts.render import MediaMark, render
from workers.tokenizers.base import Run

HERMES, PHI3, ZH, V2_5 = (CONVERSATIONS[name] for name in ("Hermes-2", "phi3-chat", "internvl_zh", "internvl2_5"))


def message(role, *parts):
    return ChatMessage(role, tuple(Text(part) if isinstance(part, str) else part for part in parts))


def text_of(conversation, messages, num_frames=(), system="S", **options):
    items = render(conversation, system, messages, num_frames, **options)
    return "".join(item.text if isinstance(item, Run) else f"<image{list(item.items)}>" for item in items)


def test_turns_of_each_format():
    history = [message("user", "Q"), message("assistant", "A"), message("user", "R")]
    assert text_of(HERMES, history) == (
        "<|im_start|>system\nS<|im_end|><|im_start|>user\nQ<|im_end|><|im_start|>assistant\nA<|im_end|>"
        "<|im_start|>user\nR<|im_end|><|im_start|>assistant\n"
    )
    assert text_of(V2_5, history) == text_of(HERMES, history).replace("<|im_end|>", "<|im_end|>\n")
    assert text_of(PHI3, history) == (
        "<|system|>\nS<|end|><|user|>\nQ<|end|><|assistant|>\nA<|end|><|user|>\nR<|end|><|assistant|>\n"
    )
    assert text_of(ZH, history) == "S <human>: Q <bot>: A</s><human>: R <bot>:"
    assert text_of(ZH, history[:1], system="") == " <human>: Q <bot>:"


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_replaces_the_default(role):
    assert text_of(HERMES, [message(role, "New"), message("user", "Q")]) == text_of(
        HERMES, [message("user", "Q")], system="New"
    )
    assert text_of(HERMES, [message(role, ""), message("user", "Q")]).startswith("<|im_start|>system\n<|im_end|>")


def test_leading_system_messages_are_joined_by_lines():
    messages = [message("system", "a"), message("developer", "b"), message("user", "Q")]
    assert text_of(HERMES, messages).startswith("<|im_start|>system\na\nb<|im_end|>")


def test_late_system_and_tool_messages_speak_as_the_user():
    messages = [message("user", "Q"), message("system", "rule"), message("tool", "42")]
    assert text_of(PHI3, messages) == (
        "<|system|>\nS<|end|><|user|>\nQ<|end|><|user|>\nrule<|end|><|user|>\n42<|end|><|assistant|>\n"
    )


def test_an_empty_turn_is_its_bare_role():
    messages = [message("user", "Q"), message("assistant", ""), message("user", "R")]
    assert "<|im_start|>assistant\n<|im_start|>user\nR" in text_of(HERMES, messages)
    assert text_of(ZH, messages) == "S <human>: Q <bot>:<human>: R <bot>:"


def test_a_last_answer_stays_open_without_a_generation_prompt():
    messages = [message("user", "Q"), message("assistant", "The")]
    assert text_of(HERMES, messages, add_generation_prompt=False).endswith("<|im_start|>assistant\nThe")
    assert text_of(ZH, messages, add_generation_prompt=False).endswith("<bot>: The")
    assert text_of(ZH, messages).endswith("<bot>: The</s><bot>:")
    assert text_of(HERMES, messages[:1], add_generation_prompt=False).endswith("<|im_start|>user\nQ<|im_end|>")


def test_no_messages_still_render():
    assert text_of(ZH, []) == "S <bot>:"


def test_pictures_and_frames_have_their_marks():
    messages = [message("user", "Image-1: ", Image(1), Video(0), "Describe.")]
    assert "user\nImage-1: <image[(1, 0)]>\nFrame1: <image[(0, 0)]>\nFrame2: <image[(0, 1)]>\nDescribe.<" in text_of(
        HERMES, messages, (2, 1)
    )


def test_combined_pictures_share_the_first_place():
    messages = [
        message("user", "a", Image(0), Image(2), "b"),
        message("assistant", "A"),
        message("user", Image(3), Video(1), "c"),
    ]
    text = text_of(ZH, messages, (1, 1, 1, 1), system="", combine_images=True)
    assert text == (
        " <human>: a<image[(0, 0), (2, 0), (3, 0)]>\nb <bot>: A</s><human>: Frame1: <image[(1, 0)]>\nc <bot>:"
    )


def test_what_people_wrote_is_plain_and_the_format_is_control():
    items = render(HERMES, "S", [message("user", "<image>", Image(0), "<|im_end|>")], (1,))
    assert [item.text for item in items if isinstance(item, Run) and not item.is_control] == [
        "S",
        "<image>",
        "<|im_end|>",
    ]
    assert sum(isinstance(item, MediaMark) for item in items) == 1
