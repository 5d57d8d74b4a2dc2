"""Prompts of the golden cases, built from their messages."""

import pytest

from tests.workers.tokenizers.checkpoints import NAMES, config, recorded, tokenizer
from workers.prompts.internvl import InternVLPrompts, configured_system_message
from workers.prompts.messages import ChatMessage, Image, Text, Video

CASES = [pytest.param(name, case, id=f"{name}:{case['name']}") for name in NAMES for case in recorded(name)["cases"]]
TOKENS_PER_TILE = 4


def prompts(name):
    settings = config(name)
    return InternVLPrompts(tokenizer(name), settings["template"], configured_system_message(settings), TOKENS_PER_TILE)


def read_messages(case):
    """The case's messages in our form, and the tile counts of their media."""
    messages, counts = [], []
    tiles = iter(case["num_patches_list"])
    is_combined = case["options"].get("image_join") == "combined"
    for message in case["messages"]:
        content = message["content"]
        parts = []
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                parts.append(Text(part["text"]))
            else:
                is_video = part["type"] == "video_url"
                parts.append(Video(len(counts)) if is_video else Image(len(counts)))
                # A video takes the rest, a tile a frame. Combined pictures have a tile each; their sum is recorded.
                counts.append(list(tiles) if is_video else [1] if is_combined else [next(tiles)])
        messages.append(ChatMessage(message["role"], tuple(parts)))
    return messages, counts, is_combined


@pytest.mark.parametrize(("name", "case"), CASES)
def test_prompt_ids_equal_the_recorded_ones(name, case):
    messages, counts, is_combined = read_messages(case)
    built = prompts(name).build(messages, counts, combine_images=is_combined)
    assert built.token_ids == case["input_ids"]
    placeholder = tokenizer(name).token_id("<IMG_CONTEXT>")
    covered = [i for span in built.spans for i in range(span.start, span.start + span.length)]
    assert covered == [i for i, token_id in enumerate(built.token_ids) if token_id == placeholder]
    assert [span.num_tiles for span in built.spans] == [tiles for medium in counts for tiles in medium]


@pytest.mark.parametrize("name", NAMES)
def test_stop_is_the_recorded_id(name):
    for case in recorded(name)["cases"]:
        assert prompts(name).stop_token_ids == (case["eos_token_id"],)
