"""From an answer's text to content and calls, however the text is cut."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.jobs import ToolChoice
from schemas.tool_forms import FORMS, HERMES, INTERNLM2, JSON_LINES
from server.tools.events import ArgumentsDelta, CallStart, ContentDelta
from tests.server.tools.parsing import joined, parse, run

LOOK = '{"name": "look", "arguments": {"at": "a cat"}}'
TIME = '{"name": "get_time", "parameters": {}}'


def written(form: str, *calls: str) -> str:
    """Calls as a model writes them."""
    said = FORMS[form]
    (before, behind), opening = said.margin, said.opening + said.lead
    return said.separator.join(f"{opening}{before}{call}{behind}{said.closing}" for call in calls)


@pytest.mark.parametrize("form", FORMS)
def test_text_without_calls_is_content(form: str) -> None:
    for text in ("", "Hello.", " \n two\nlines \n", '{"answer": 42}', "```json\n{}\n```", "a < b, <tool", "<|action_"):
        assert "".join(str(one) for one in parse(form, text)) == text


@pytest.mark.parametrize("form", FORMS)
def test_a_call_alone(form: str) -> None:
    assert parse(form, written(form, LOOK)) == [("look", '{"at": "a cat"}')]


@pytest.mark.parametrize("form", FORMS)
def test_several_calls_behind_some_words(form: str) -> None:
    assert parse(form, "Let me see.\n" + written(form, LOOK, TIME, LOOK) + "\n") == [
        "Let me see.",
        ("look", '{"at": "a cat"}'),
        ("get_time", "{}"),
        ("look", '{"at": "a cat"}'),
    ]


@pytest.mark.parametrize("form", FORMS)
def test_words_behind_a_call_are_content_again(form: str) -> None:
    assert parse(form, written(form, LOOK) + "\nThat is all.") == [("look", '{"at": "a cat"}'), "That is all."]
    assert parse(form, "One. \n" + written(form, LOOK) + "\nTwo.") == [
        "One.",
        ("look", '{"at": "a cat"}'),
        " \n\nTwo.",
    ]


@pytest.mark.parametrize("form", FORMS)
def test_arguments_are_passed_on_as_written_and_as_they_come(form: str) -> None:
    arguments = '{ "a" : [1, {"}": "\\"}{"}],"b":"</tool_call><|action_end|>\\\\" }'
    text = written(form, f'{{"name": "look", "arguments": {arguments}}}')
    assert parse(form, text) == [("look", arguments)]
    events = run(form, text)
    start = events.index(CallStart(0, "look"))
    assert start == 0
    assert events[1:] == [ArgumentsDelta(0, character) for character in arguments]


@pytest.mark.parametrize("form", FORMS)
def test_a_call_begins_with_its_name_before_its_arguments_are_there(form: str) -> None:
    text = written(form, LOOK)
    cut = text.index('"at"')
    assert joined(run(form, [text[:cut]])) == [("look", "{")]


@pytest.mark.parametrize("form", FORMS)
def test_a_call_that_is_cut_off_keeps_what_came(form: str) -> None:
    text = written(form, LOOK)
    assert parse(form, text[: text.index("cat")]) == [("look", '{"at": "a ')]


@pytest.mark.parametrize("form", FORMS)
def test_a_call_of_a_tool_that_is_not_offered_is_content(form: str) -> None:
    for text in (written(form, LOOK.replace("look", "delete_all")), written(form, LOOK)):
        choice = ToolChoice(names=("get_time",))
        assert "".join(str(one) for one in parse(form, text, choice)) == text


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "body", ["", "{", "[]", "null", '{"name": 3}', '{"name": "look"', '{"name": "look", "argu', "é"]
)
def test_what_cannot_be_read_is_content(form: str, body: str) -> None:
    text = "Well: " + written(form, body) + " so."
    assert "".join(str(one) for one in parse(form, text)) == text


@pytest.mark.parametrize("form", FORMS)
def test_only_the_first_call_is_kept_where_calls_may_not_be_parallel(form: str) -> None:
    found = parse(
        form,
        "a" + written(form, LOOK, TIME, LOOK) if FORMS[form].opening else f"a\n{LOOK}\n{TIME}\n{LOOK}",
        ToolChoice(is_parallel=False),
    )
    assert found == ["a", ("look", '{"at": "a cat"}')]


@pytest.mark.parametrize("form", [HERMES, INTERNLM2])
@pytest.mark.parametrize(
    "body",
    [
        '{"arguments": {"at": "a cat"}, "name": "look"}',
        '{"id": 1, "name": "look", "parameters": {"at": "a cat"}}',
        '{"name": "look", "arguments": "{\\"at\\": \\"a cat\\"}"}',
        '{"name": "lo\\u006fk", "arguments": {"at": "a cat"}}',
    ],
)
def test_calls_of_another_shape_are_read_whole(form: str, body: str) -> None:
    assert parse(form, written(form, body)) == [("look", '{"at": "a cat"}')]


@pytest.mark.parametrize("form", [HERMES, INTERNLM2])
def test_a_call_without_arguments_has_none(form: str) -> None:
    for body in ('{"name": "look"}', '{"name": "look", "arguments": null}'):
        assert parse(form, written(form, body)) == [("look", "{}")]


@pytest.mark.parametrize("form", [HERMES, INTERNLM2])
def test_a_missing_closing_tag_ends_with_the_text_or_the_next_call(form: str) -> None:
    open_call = written(form, LOOK).removesuffix(FORMS[form].closing)
    assert parse(form, open_call) == [("look", '{"at": "a cat"}')]
    assert parse(form, open_call + written(form, TIME)) == [("look", '{"at": "a cat"}'), ("get_time", "{}")]
    whole = written(form, '{"arguments": {}, "name": "look"}').removesuffix(FORMS[form].closing)
    assert parse(form, whole) == [("look", "{}")]


@pytest.mark.parametrize("form", [HERMES, INTERNLM2])
def test_members_behind_the_arguments_mean_nothing(form: str) -> None:
    body = LOOK[:-1] + ', "id": "}"}'
    assert parse(form, written(form, body) + "x") == [("look", '{"at": "a cat"}'), "x"]


@pytest.mark.parametrize("form", [HERMES, INTERNLM2])
def test_a_call_behind_a_broken_one_is_found(form: str) -> None:
    broken = FORMS[form].opening + " oops "
    assert parse(form, broken + written(form, LOOK)) == [broken.strip(), ("look", '{"at": "a cat"}')]


def test_internlm2s_tags_may_stand_apart_and_another_ability_is_no_call() -> None:
    assert parse(INTERNLM2, f"Hm. <|action_start|> <|plugin|>\n{LOOK} <|action_end|>") == [
        "Hm.",
        ("look", '{"at": "a cat"}'),
    ]
    code = "<|action_start|><|interpreter|>\n1 + 1<|action_end|>"
    assert parse(INTERNLM2, code) == [code]


def test_a_json_line_is_a_call_only_where_a_line_begins() -> None:
    assert parse(JSON_LINES, f"Say {LOOK}") == [f"Say {LOOK}"]
    assert parse(JSON_LINES, f"```json\n  {LOOK}\n```") == ["```json", ("look", '{"at": "a cat"}'), "\n  \n```"]


def test_without_a_form_or_with_one_of_a_later_release_all_is_content() -> None:
    for form in (None, "hermes-9"):
        assert run(form, ["  ", LOOK]) == [ContentDelta("  "), ContentDelta(LOOK)]


FRAGMENTS = [
    *("<tool_call>", "</tool_call>", "<|action_start|>", "<|plugin|>", "<|action_end|>", "<tool_", "|>"),
    *(
        LOOK,
        TIME,
        LOOK[:20],
        LOOK[20:],
        '{"arguments": {"x": 1}, "name": "look"}',
        '{"name": "look"}',
        '{"name": "nope"',
    ),
    *("\n", " ", "}", "{", '"', "\\", "words", "é🙂", ", ", '{"name": "look", "arguments": {'),
    *(written(form, LOOK) for form in FORMS),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_parallel", [True, False])
@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=8), st.data())
def test_any_division_of_a_text_gives_the_same(
    form: str, is_parallel: bool, parts: list[str], data: st.DataObject
) -> None:
    text, choice = "".join(parts), ToolChoice(is_parallel=is_parallel)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = parse(form, text, choice)
    assert joined(run(form, pieces, choice)) == whole
    assert joined(run(form, text, choice)) == whole


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(FORMS)), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
))  # fmt: skip
def test_arguments_of_any_value_come_back_unchanged(form: str, value: object) -> None:
    arguments = json.dumps({"value": value}, ensure_ascii=False)
    text = "x\n" + written(form, f'{{"name": "look", "arguments": {arguments}}}')
    assert parse(form, text) == ["x", ("look", arguments)]
