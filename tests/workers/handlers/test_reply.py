"""One choice's text: stop strings, stop ids, stripped white space, and the same after a takeover."""

import pytest

from schemas.sampling import SamplingParams
from tests.e2e.goldens import LEAN
from workers.handlers.reply import ReplyText
from workers.tokenizers.load import load_tokenizer

TOKENIZER = load_tokenizer(LEAN / "internvl2_5-qwen2" / "checkpoint")
TEXT = "  One, two; 三 four. \n Five\n\n"


def reply(is_stripped: bool = True, stop_ids: frozenset[int] = frozenset(), **sampling: object) -> ReplyText:
    return ReplyText(TOKENIZER, SamplingParams(seed=0, **sampling), stop_ids, is_stripped)


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, parse_special=False)


def stream(one: ReplyText, token_ids: list[int], size: int = 1) -> tuple[str, int, bool]:
    """Text, tokens used, whether a stop string ended it; in pieces of `size` tokens."""
    text, used = "", 0
    for start in range(0, len(token_ids), size):
        piece = one.push(token_ids[start : start + size])
        text, used = text + piece.text, used + piece.num_tokens
        if piece.is_stopped:
            return text, used, True
    return text + one.finish(), used, False


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_pieces_make_up_the_stripped_text(size: int):
    assert stream(reply(), ids(TEXT), size) == (TEXT.strip(), len(ids(TEXT)), False)


def test_white_space_stays_where_the_family_keeps_it():
    assert stream(reply(is_stripped=False), ids(TEXT))[0] == TEXT


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_stop_string_ends_the_text_and_the_tokens(size: int):
    text, used, is_stopped = stream(reply(stop=("four", "nowhere")), ids(TEXT), size)
    assert (text, is_stopped) == ("One, two; 三", True)
    assert "four" in TOKENIZER.decode(ids(TEXT)[:used], skip_special_tokens=True)
    assert "four" not in TOKENIZER.decode(ids(TEXT)[: used - 1], skip_special_tokens=True)


def test_the_last_piece_names_the_stop_string_that_ended_the_text():
    one = reply(stop=("nowhere", "four"))
    assert one.push(ids(TEXT)).stop_string == "four"
    assert reply().push(ids(TEXT)).stop_string is None


def test_a_stop_string_may_stay_in_the_text():
    assert stream(reply(stop=("four",), include_stop_str_in_output=True), ids(TEXT))[0] == "One, two; 三 four"


def test_what_looks_like_the_start_of_a_stop_string_is_given_out_at_the_end():
    assert stream(reply(stop=("Five!!",)), ids("four Five"))[0] == "four Five"


def test_a_stop_id_leaves_no_trace():
    end = TOKENIZER.token_id("<|im_end|>")
    one = reply(stop_ids=frozenset({end}), skip_special_tokens=False)
    assert stream(one, [*ids("done"), end]) == ("done", len(ids("done")) + 1, False)


@pytest.mark.parametrize("cut", range(len(ids(TEXT))))
def test_a_takeover_goes_on_where_the_text_was(cut: int):
    """Another worker pushes what was emitted before, drops that text, and gives out exactly the rest."""
    token_ids = ids(TEXT)
    before = "".join(piece.text for one in [reply(stop=("Five\n\n\n",))] for piece in [one.push(token_ids[:cut])])
    taken_over = reply(stop=("Five\n\n\n",))
    assert taken_over.push(token_ids[:cut]).text == before
    assert before + stream(taken_over, token_ids[cut:])[0] == TEXT.strip()
