"""The detokenizer against decoding all ids at once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.tokenizers.checkpoints import NAMES, recorded, tokenizer
from workers.engine.detokenizer import Detokenizer
from workers.tokenizers.base import TokenKind

# Random ids below this cover control ids, bytes, pieces, added tokens and ids beyond the vocabulary.
MAX_ID = 1040
WORDS = [" ", "  ", " .", " ?", " ' ", " n't", " 'm", " '", "a", "cat", "你", "😀", "\n"]


def streamed(name, chunks, skip_special_tokens=True):
    detokenizer = Detokenizer(tokenizer(name), skip_special_tokens)
    return [detokenizer.append(chunk) for chunk in chunks] + [detokenizer.finish()]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None)
@given(chunks=st.lists(st.lists(st.integers(0, MAX_ID), max_size=4), max_size=10))
def test_pieces_join_to_the_decoded_text(name, chunks):
    ids = [token_id for chunk in chunks for token_id in chunk]
    assert "".join(streamed(name, chunks)) == tokenizer(name).decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None)
@given(chunks=st.lists(st.lists(st.integers(0, MAX_ID), max_size=4), max_size=10))
def test_pieces_join_to_the_decoded_text_with_added_tokens_kept(name, chunks):
    subject = tokenizer(name)
    chunks = [[i for i in chunk if subject.token_kind(i) is not TokenKind.SPECIAL] for chunk in chunks]
    ids = [token_id for chunk in chunks for token_id in chunk]
    assert "".join(streamed(name, chunks, False)) == subject.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), max_size=12))
def test_clean_up_comes_out_as_in_the_decoded_text(name, words):
    subject = tokenizer(name)
    chunks = [subject.encode(word, parse_special=False)[-2:] for word in words]
    ids = [token_id for chunk in chunks for token_id in chunk]
    assert "".join(streamed(name, chunks)) == subject.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50, deadline=None)
@given(ids=st.lists(st.integers(0, MAX_ID), max_size=20), cuts=st.sets(st.integers(0, 20)))
def test_text_emitted_so_far_depends_on_the_ids_alone(name, ids, cuts):
    one_by_one = Detokenizer(tokenizer(name), False)
    in_chunks = Detokenizer(tokenizer(name), False)
    pending, left, right = [], "", ""
    for position, token_id in enumerate(ids):
        left += one_by_one.append([token_id])
        pending.append(token_id)
        if position in cuts:
            right += in_chunks.append(pending)
            pending = []
            assert left == right
    right += in_chunks.append(pending)
    assert left + one_by_one.finish() == right + in_chunks.finish()


@pytest.mark.parametrize("name", NAMES)
def test_a_character_of_several_tokens_comes_out_whole(name):
    subject = tokenizer(name)
    ids = subject.encode("é😀你", parse_special=False)
    pieces = streamed(name, [[token_id] for token_id in ids])
    assert "".join(pieces).strip() == "é😀你"
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("name", NAMES)
def test_an_unfinished_character_is_replaced_at_the_end_only(name):
    ids = tokenizer(name).encode("a😀", parse_special=False)[:-1]
    *pieces, last = streamed(name, [[token_id] for token_id in ids])
    assert "\ufffd" not in "".join(pieces)
    assert "\ufffd" in last


@pytest.mark.parametrize("name", NAMES)
def test_recorded_answers_are_streamed(name):
    for case in recorded(name)["cases"]:
        assert "".join(streamed(name, [[i] for i in case["greedy_ids"]])).strip() == case["greedy_text"]


def test_special_tokens_in_running_text_can_be_kept():
    subject = tokenizer("internvl2_5-qwen2")
    ids = subject.encode("a<|im_end|>b", parse_special=True)
    assert "".join(streamed("internvl2_5-qwen2", [ids], False)) == "a<|im_end|>b"
    subject = tokenizer("internvl2-internlm2")
    ids = subject.encode("a<|im_end|><|im_start|>b", parse_special=True)[1:]
    assert "".join(streamed("internvl2-internlm2", [ids], False)) == "a <|im_end|><|im_start|>b"


def test_no_ids_give_no_text():
    for name in NAMES:
        assert "".join(streamed(name, [])) == "".join(streamed(name, [[], []])) == ""
