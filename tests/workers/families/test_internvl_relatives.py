"""Families that talk as InternVL-Chat does: prompts, stops and texts of their golden cases."""

import numpy as np
import pytest

from schemas.errors import RequestError
from schemas.jobs import MediaOptions
from tests.workers.models.goldens import LEAN, Case, cases, model, read_json
from tests.workers.prompts.test_recorded import read_messages
from workers.families.base import Family
from workers.families.registry import open_family
from workers.media.types import ImageOptions, PreparedMedia
from workers.tokenizers.load import load_tokenizer

SETS = ("mono-internvl", "mono-internvl-ext", "hovle", "hovle_hd")
ALL = [pytest.param(case, id=f"{case.set_name}-{case.name}") for case in cases(SETS)]


def family(set_name: str) -> Family:
    folder = LEAN / set_name / "checkpoint"
    return open_family(read_json(set_name, "checkpoint/config.json"), load_tokenizer(folder), model(set_name))


@pytest.mark.parametrize("case", ALL)
def test_prompt_ids_and_spans_equal_the_recorded_ones(case: Case):
    messages, counts, _ = read_messages(case.raw)
    media = [PreparedMedia(np.empty(0, np.uint8), tuple(tiles), b"", 1, 1) for tiles in counts]
    built = family(case.set_name).build_prompt(messages, media, MediaOptions(), True)
    assert built.token_ids == case.raw["input_ids"]
    assert [span.num_tiles for span in built.spans] == case.raw["num_patches_list"]
    assert all(span.length == span.num_tiles * 4 for span in built.spans)


@pytest.mark.parametrize("case", ALL)
def test_texts_equal_the_recorded_ones(case: Case):
    tokenizer = load_tokenizer(LEAN / case.set_name / "checkpoint")
    assert tokenizer.decode(case.greedy_ids, skip_special_tokens=True).strip() == case.raw["greedy_text"]


@pytest.mark.parametrize("set_name", SETS)
def test_answers_end_at_the_templates_own_token_only(set_name: str):
    assert family(set_name).stop_token_ids == {1204}


@pytest.mark.parametrize("set_name", SETS)
def test_a_picture_is_cut_as_the_model_card_says(set_name: str):
    asked = MediaOptions(max_dynamic_patch=6, exif_transpose=False)
    assert family(set_name).image_options(asked, "auto") == ImageOptions(56, 1, 6, True, False)
    with pytest.raises(RequestError, match="allows 1 to 12"):
        family(set_name).image_options(MediaOptions(max_dynamic_patch=13), "auto")
