"""Every tokenizer against what the authors' own tokenizers gave on the golden checkpoints."""

import pytest

from tests.workers.tokenizers.checkpoints import NAMES, recorded, tokenizer

pytestmark = pytest.mark.parametrize("name", NAMES)


def test_encodes_every_probe(name):
    for probe in recorded(name)["tokenizer_probes"]["encode"]:
        assert tokenizer(name).encode(probe["text"], parse_special=True) == probe["input_ids"], probe["text"]


def test_decodes_every_probe(name):
    for probe in recorded(name)["tokenizer_probes"]["decode"]:
        assert tokenizer(name).decode(probe["ids"], skip_special_tokens=True) == probe["text"]
        assert tokenizer(name).decode(probe["ids"], skip_special_tokens=False) == probe["text_with_special"]


def test_encodes_every_rendered_prompt(name):
    for case in recorded(name)["cases"]:
        assert tokenizer(name).encode(case["prompt"], parse_special=True) == case["input_ids"], case["name"]


def test_decodes_every_answer(name):
    for case in recorded(name)["cases"]:
        text = tokenizer(name).decode(case["greedy_ids"], skip_special_tokens=True)
        assert text.strip() == case["greedy_text"], case["name"]


def test_recorded_stop_id_is_a_control_id(name):
    assert {case["eos_token_id"] for case in recorded(name)["cases"]} <= tokenizer(name).control_ids
