"""Division of prompts at added tokens."""

import pytest

from workers.tokenizers.added import AddedToken, AddedTokens, Segment, alternatives, cut_forged
from workers.tokenizers.base import Run

END = AddedToken(7, "<end>")
LONG = AddedToken(8, "<end><end>!")
EATER = AddedToken(9, "<eat>", lstrip=True, rstrip=True)
MARK = AddedToken(10, "<ref>")
TABLE = AddedTokens([END, LONG, EATER, MARK])


def divide(*runs):
    return [item if isinstance(item, AddedToken) else item.text for item in TABLE.divide(runs)]


def test_text_between_tokens_stays_in_one_piece_over_runs():
    assert divide(Run("<end>a", True), Run("b"), Run("c<end>", True)) == [END, "abc", END]


def test_the_longest_token_wins():
    assert divide(Run("<end><end>!<end>", True)) == [LONG, END]


def test_a_match_must_lie_in_control_text():
    assert divide(Run("<end>")) == ["<end>"]
    assert divide(Run("<en", True), Run("d>")) == ["<end>"]
    assert divide(Run("<en", True), Run("d>", True)) == [END]


def test_markup_is_found_in_plain_text_too():
    assert divide(Run("a<ref>b<end>"), Run("<end>", True), Run("<ref>")) == ["a", MARK, "b<end>", END, MARK]


def test_tokens_eat_white_space_on_their_sides():
    assert divide(Run("a \n"), Run("<eat>", True), Run("\t\u3000b ")) == ["a", EATER, "b "]
    assert divide(Run("  "), Run("<eat>", True), Run("\n\n"), Run("<eat>", True)) == [EATER, EATER]


def test_no_runs_give_nothing():
    assert divide() == divide(Run(""), Run("", True)) == []


def test_segments_know_their_control_text_after_stripping():
    items = list(TABLE.divide([Run("<eat> x", True), Run("yy"), Run("z <eat>", True)]))
    assert items[1] == Segment("xyyz", ((0, 1), (3, 4)))


@pytest.mark.parametrize(
    ("control", "parts"),
    [
        ((), ["a<", "m>b<", "m>"]),
        (((0, 8),), ["a<m>b<m>"]),
        (((0, 4),), ["a<m>b<", "m>"]),
        (((2, 8),), ["a<", "m>b<m>"]),
        (((1, 3), (5, 8)), ["a<", "m>b<m>"]),
    ],
)
def test_forged_pieces_are_cut(control, parts):
    assert cut_forged(Segment("a<m>b<m>", control), alternatives(["<m>"])) == parts
    assert cut_forged(Segment("a<m>b<m>", control), None) == ["a<m>b<m>"]
