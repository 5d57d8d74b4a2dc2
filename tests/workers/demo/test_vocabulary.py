"""The tokenizer: quoted words letter by letter, any byte, and the shipped files as the code writes them."""

import random

import pytest

from workers.demo.export import CHECKPOINT
from workers.demo.lettering import sample_string
from workers.demo.samples import SYSTEM, Writer
from workers.demo.shape import Dimensions
from workers.demo.vocabulary import SPECIAL, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(CHECKPOINT)


def test_quoted_words_stay_letter_by_letter(tokenizer) -> None:
    rng = random.Random(0)
    whole = 0
    for word in ["CAT", "stop", "Hello", "42", "2026", *(sample_string(rng) for _ in range(200))]:
        pieces = [tokenizer.decode([i]) for i in tokenizer.encode(f'It says "{word}".').ids]
        inside = pieces[pieces.index(' "') + 1 : -1]
        assert "".join(inside) == word
        whole += len(inside) == len(word)
    assert whole > 190


def test_ordinary_answer_words_are_single_tokens(tokenizer) -> None:
    answer = "The red circle is to the left of the blue square."
    assert len(tokenizer.encode(answer).ids) == len(answer.split()) + 1


@pytest.mark.parametrize("text", ["naïve café", "日本語", "\x00\x7f", "a\n\n b\t c", "🙂"])
def test_any_text_survives(tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_special_tokens_are_single_ids(tokenizer) -> None:
    for token in SPECIAL:
        assert tokenizer.encode(token).ids == [tokenizer.token_to_id(token)]


def test_the_files_load_as_a_qwen2_tokenizer(tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.Qwen2Tokenizer.from_pretrained(str(CHECKPOINT))
    for text in (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n<img></img>\nWhat is it?",
        'It says "Hi".',
    ):
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text).ids


def test_a_picture_takes_the_place_of_its_mark() -> None:
    writer = Writer(CHECKPOINT, Dimensions().tokens)
    ids = writer.prompt_ids("a<image>\nb<image>\n")
    assert ids.count(writer.tokenizer.token_to_id("<IMG_CONTEXT>")) == 2 * Dimensions().tokens
