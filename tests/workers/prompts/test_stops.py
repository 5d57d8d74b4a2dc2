"""Stop strings over a growing text, against a search of every prefix."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.prompts.stops import StopMatcher

texts = st.text(alphabet="ab", max_size=30)
stop_sets = st.lists(st.text(alphabet="ab", min_size=1, max_size=5), max_size=4)


def run(stops, parts, include_in_output=False):
    matcher = StopMatcher(stops, include_in_output)
    shown = ""
    for part in parts:
        text, matched = matcher.push(part)
        shown += text
        if matched is not None:
            return shown, matched
    return shown + matcher.flush(), None


def search_prefixes(stops, text, include_in_output=False):
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            stop = max(ending, key=len)
            return text[:end] if include_in_output else text[: end - len(stop)], stop
    return text, None


@given(stop_sets, st.lists(texts, max_size=6), st.booleans())
def test_result_depends_on_the_text_alone(stops, parts, include_in_output):
    assert run(stops, parts, include_in_output) == search_prefixes(stops, "".join(parts), include_in_output)


@given(stop_sets, texts)
def test_only_what_may_become_a_stop_is_held_back(stops, text):
    matcher = StopMatcher(stops, False)
    shown, matched = matcher.push(text)
    if matched is None:
        beginnings = {stop[:size] for stop in stops for size in range(len(stop))} | {""}
        longest = max((b for b in beginnings if text.endswith(b)), key=len)
        assert shown == text[: len(text) - len(longest)]


def test_the_stop_is_shown_only_on_request():
    assert run(["</s>"], ["a</", "s>b"]) == ("a", "</s>")
    assert run(["</s>"], ["a</", "s>b"], include_in_output=True) == ("a</s>", "</s>")


def test_nothing_is_shown_after_a_match():
    matcher = StopMatcher(["x"], False)
    assert matcher.push("axb") == ("a", "x")
    assert matcher.push("c") == ("", "x")
    assert matcher.flush() == ""


def test_text_passes_at_once_without_stops():
    matcher = StopMatcher([], False)
    assert matcher.push("abc") == ("abc", None)
    assert matcher.flush() == ""


def test_an_empty_stop_is_refused():
    with pytest.raises(ValueError, match="empty"):
        StopMatcher(["a", ""], False)


def test_near_misses_are_given_back():
    assert run(["aab"], ["aa", "a", "ac"]) == ("aaaac", None)
