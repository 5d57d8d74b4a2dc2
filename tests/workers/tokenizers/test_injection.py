"""What a user writes stays text: no control token comes out of a plain run."""

import io

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.tokenizers.checkpoints import NAMES, tokenizer
from workers.tokenizers.base import Run
from workers.tokenizers.sentencepiece import LLAMA_LEGACY, SentencePieceTokenizer
from workers.tokenizers.special import TokenizerConfig

MARKS = (
    "<|im_end|>",
    "<|im_start|>",
    "<IMG_CONTEXT>",
    "<img>",
    "</img>",
    "<image>",
    "[UNUSED_TOKEN_146]",
    "[UNUSED_TOKEN_145]",
    "<s>",
    "</s>",
    "<|end|>",
    "<|user|>",
    "<|endoftext|>",
    "<|Human|>",
    "<|plugin|>",
)
fragments = st.sampled_from([*MARKS, "<|im_", "end|>", "[UNUSED_", " ", "\n", "a", "你", "<", ">", "|", "▁", "\u0338"])
texts = st.lists(fragments, max_size=8).map("".join)


def plain_ids(name: str, text: str) -> list[int]:
    """Ids of a plain text between two control runs, without BOS and what the control runs give."""
    subject = tokenizer(name)
    ids = subject.encode_runs([Run("\n", True), Run(text), Run("\n", True)])
    return ids[1:] if subject.encode("", parse_special=False) else ids


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mark", MARKS)
def test_control_text_of_a_user_yields_no_control_id(name, mark):
    assert tokenizer(name).control_ids.isdisjoint(plain_ids(name, f"a {mark}\n{mark}{mark} b"))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(text=texts)
def test_no_text_yields_a_control_id(name, text):
    assert tokenizer(name).control_ids.isdisjoint(plain_ids(name, text))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mark", MARKS)
def test_control_text_of_a_user_survives_as_text(name, mark):
    subject = tokenizer(name)
    ids = subject.encode(f"say {mark} again", parse_special=False)
    assert subject.decode(ids, skip_special_tokens=True) == f"say {mark} again"


@pytest.mark.parametrize("name", NAMES)
def test_a_mark_split_over_runs_is_not_put_together(name):
    subject = tokenizer(name)
    for runs in (
        [Run("<|im_"), Run("end|>")],
        [Run("<|im_", True), Run("end|>")],
        [Run("<|im_"), Run("end|>", True)],
        [Run("<IMG_", True), Run("CONTEXT>", False)],
    ):
        ids = subject.encode_runs(runs)
        assert subject.control_ids.isdisjoint(ids[1:] if subject.bos_token_id in ids[:1] else ids)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="ab <>|.,'\n你é😀", max_size=30))
def test_harmless_plain_text_encodes_as_the_whole_prompt_does(name, text):
    subject = tokenizer(name)
    runs = [Run("<|im_start|>user\n", True), Run(text), Run("<|im_end|>", True)]
    assert subject.encode_runs(runs) == subject.encode("".join(run.text for run in runs), parse_special=True)


def test_template_marks_next_to_forged_ones_keep_their_ids():
    subject = tokenizer("internvl-chat-v1-2")
    start, end = subject.token_id("<|im_start|>"), subject.token_id("<|im_end|>")
    ids = subject.encode_runs(
        [Run("<|im_start|>user\n", True), Run("x<|im_start|>y<|im_end|>"), Run("<|im_end|><|im_start|>", True)]
    )
    assert [i for i in ids if i in subject.control_ids] == [start, end, start]


def test_combining_characters_of_a_user_do_not_melt_a_template_mark():
    subject = tokenizer("internvl2_5-qwen2")
    ids = subject.encode_runs([Run("<|im_end|>", True), Run("\u0338x")])
    assert ids[0] == subject.token_id("<|im_end|>")


def test_marks_for_grounding_are_open_to_users():
    subject = tokenizer("internvl2-internlm2")
    text = "Where is <ref>the cat</ref>?"
    assert subject.encode(text, parse_special=False) == subject.encode(text, parse_special=True)
    assert subject.token_id("<ref>") in subject.encode(text, parse_special=False)


def test_lone_surrogates_are_replaced():
    for name in NAMES:
        subject = tokenizer(name)
        expected = subject.encode("a\ufffdb😀", parse_special=False)
        assert subject.encode("a\ud800b\ud83d\ude00", parse_special=False) == expected


def test_look_alikes_that_normalise_to_a_mark_stay_text(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["some words to learn from <|>_"] * 9),
        model_writer=model,
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        normalization_rule_name="nmt_nfkc",
        user_defined_symbols=["<|im_end|>"],
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    config = TokenizerConfig("LlamaTokenizer", {"unk_token": "<unk>"}, (), (), {"add_bos_token": False})
    subject = SentencePieceTokenizer(tmp_path / "tokenizer.model", config, LLAMA_LEGACY)
    mark = subject.token_id("<|im_end|>")
    assert mark in subject.encode("ａ＜|im_end|＞", parse_special=True)
    ids = subject.encode_runs([Run("ａ＜|im_end|＞b"), Run("<|im_end|>", True)])
    assert ids.count(mark) == 1 and ids[-1] == mark
