"""One answer's place in its grammar: what may follow, when it is whole, what is avoided while there is a choice."""

import pytest

from schemas.errors import RequestError
from tests.workers.grammar.compiled import allowed, compiled, eos_ids, text_of, tokenizer, walk
from workers.grammar.masks import MaskFiller, MaskJob
from workers.grammar.matcher import Matcher

EOS = min(eos_ids())


def ids_of(text: str) -> list[int]:
    return tokenizer().encode(text, parse_special=False)


def at(kind: str, source: object, text: str, ignore_eos: bool = False) -> Matcher:
    return compiled(kind, source).start(ignore_eos, ids_of(text))


def test_an_end_is_allowed_only_where_the_text_may_end() -> None:
    assert EOS not in allowed(at("regex", "ab+", "a"))
    assert EOS in allowed(at("regex", "ab+", "ab"))


def test_a_text_that_nothing_can_follow_is_whole_without_an_end() -> None:
    matcher = at("choice", ["ab", "cd"], "a")
    assert allowed(matcher) == ids_of("b")
    assert matcher.advance(ids_of("b")[0])
    assert allowed(matcher) == [EOS]


def test_an_end_that_was_chosen_makes_the_text_whole() -> None:
    matcher = at("regex", "ab*", "a")
    assert matcher.advance(EOS)


def test_with_ignore_eos_the_answer_goes_on_as_long_as_it_can() -> None:
    assert EOS not in allowed(at("regex", "ab*", "a", ignore_eos=True))
    assert allowed(at("choice", ["a"], "a", ignore_eos=True)) == [EOS]


def test_banned_tokens_are_left_out_where_others_are_allowed() -> None:
    a, b = ids_of("a")[0], ids_of("b")[0]
    matcher = at("regex", "[ab]", "")
    assert {a, b} <= set(allowed(matcher))
    assert a not in allowed(matcher, banned=(a,))
    assert set(allowed(matcher, banned=(a, b))) <= {a, b}


def test_control_tokens_and_what_pads_the_head_are_never_allowed() -> None:
    free = set(allowed(at("regex", r"(?s:.*)", "")))
    assert free & (tokenizer().control_ids - eos_ids()) == set()
    assert all(tokenizer().token_bytes(token_id) for token_id in free)


def test_copies_of_one_grammar_go_their_own_ways() -> None:
    grammar = compiled("choice", ["ab", "cd"])
    first, second = grammar.start(ignore_eos=False), grammar.start(ignore_eos=False)
    first.advance(ids_of("a")[0])
    assert allowed(first) == ids_of("b")
    assert set(allowed(second)) >= {ids_of("a")[0], ids_of("c")[0]}


def test_a_place_reached_by_replay_is_the_place_reached_by_choice() -> None:
    grammar = compiled("json_schema", {"type": "object", "properties": {"a": {"type": "string", "maxLength": 5}}})
    whole, _ = walk(grammar, max, most=20)
    chosen = grammar.start(ignore_eos=False)
    for count, token_id in enumerate(whole):
        assert allowed(grammar.start(ignore_eos=False, emitted=whole[:count])) == allowed(chosen)
        chosen.advance(token_id)


def test_a_grammar_that_turns_out_too_complex_fails_its_answer() -> None:
    matcher = at("lark", 'start: "a" b{100000}\nb: "x"', "")
    with pytest.raises(RequestError) as caught:
        for letter in ("a", "x", "x"):
            allowed(matcher)
            matcher.advance(ids_of(letter)[0])
    assert caught.value.param == "guided"


def test_a_forbidden_token_fails_the_answer() -> None:
    matcher = at("choice", ["yes"], "")
    with pytest.raises(RequestError):
        matcher.advance(ids_of("n")[0])
    with pytest.raises(RequestError):
        matcher.advance(EOS)


def test_masks_of_many_answers_come_in_the_order_of_their_rows() -> None:
    texts = [f"{chr(97 + at)}z" for at in range(20)]
    jobs = [MaskJob(3 * row, compiled("choice", [text]).start(False)) for row, text in enumerate(texts)]
    pending = MaskFiller().start(jobs)
    assert pending is not None
    masks = pending.wait()
    assert masks.rows == [3 * row for row in range(20)]
    for bits, text in zip(masks.bits, texts, strict=True):
        first = ids_of(text)[0]
        assert bits[first // 32] >> (first % 32) & 1
        assert text_of([first])[0] == text[0]


def test_no_constrained_row_costs_no_thread() -> None:
    filler = MaskFiller()
    assert filler.start([]) is None
    assert filler._pool is None
