"""What form an answer is to take: which field asks for which grammar, and what is refused by whose name."""

from typing import Any

import msgspec
import pytest

from schemas.errors import ErrorCode, RequestError
from schemas.openai.chat import parse_chat_request
from schemas.openai.completion import parse_completion_request
from schemas.openai.structured import grammar_of
from schemas.sampling import Grammar

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "string"}}}
AS_TEXT = msgspec.json.encode(SCHEMA).decode()
FORMAT = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA}}


def asked(**fields: Any) -> Grammar | None:
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], **fields}
    return grammar_of(parse_chat_request(body))


def refused(**fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        asked(**fields)
    return caught.value


def with_schema(**changes: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, **changes}}


@pytest.mark.parametrize(
    ("fields", "kind", "source", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "json_object", "", "response_format"),
        ({"response_format": FORMAT}, "json_schema", AS_TEXT, "response_format.json_schema.schema"),
        (
            {"response_format": with_schema(strict=True, description="d")},
            "json_schema",
            AS_TEXT,
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": with_schema(strict=False)},
            "json_schema",
            AS_TEXT,
            "response_format.json_schema.schema",
        ),
        ({"structured_outputs": {"json": SCHEMA}}, "json_schema", AS_TEXT, "structured_outputs.json"),
        ({"structured_outputs": {"json": AS_TEXT}}, "json_schema", AS_TEXT, "structured_outputs.json"),
        ({"structured_outputs": {"regex": "a+"}}, "regex", "a+", "structured_outputs.regex"),
        ({"structured_outputs": {"choice": ["a", "b"]}}, "choice", '["a","b"]', "structured_outputs.choice"),
        ({"structured_outputs": {"grammar": "start: /a/"}}, "lark", "start: /a/", "structured_outputs.grammar"),
        ({"structured_outputs": {"json_object": True}}, "json_object", "", "structured_outputs.json_object"),
        ({"guided_json": SCHEMA}, "json_schema", AS_TEXT, "guided_json"),
        ({"guided_regex": "a+"}, "regex", "a+", "guided_regex"),
        ({"guided_choice": ["é", '"']}, "choice", '["é","\\""]', "guided_choice"),
        ({"guided_grammar": "start: /a/"}, "lark", "start: /a/", "guided_grammar"),
    ],
)
def test_each_way_to_ask_becomes_a_grammar_that_names_its_field(fields, kind, source, param) -> None:
    assert asked(**fields) == Grammar(kind, source, param)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": None},
        {"response_format": {"type": "text"}},
        {"structured_outputs": None},
        {"structured_outputs": {}},
        {"structured_outputs": {"json_object": False, "regex": None}},
        {"guided_json": None, "guided_choice": None},
        {"response_format": {"type": "text", "json_schema": None}},
    ],
)
def test_an_answer_is_free_where_nothing_is_asked_for(fields) -> None:
    assert asked(**fields) is None


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"response_format": {"type": "xml"}}, ErrorCode.INVALID_VALUE, "response_format.type"),
        ({"response_format": {}}, ErrorCode.MISSING_PARAMETER, "response_format.type"),
        ({"response_format": "json"}, ErrorCode.INVALID_TYPE, "response_format"),
        ({"response_format": {"type": "json_schema"}}, ErrorCode.MISSING_PARAMETER, "response_format.json_schema"),
        ({"response_format": FORMAT | {"type": "text"}}, ErrorCode.INVALID_VALUE, "response_format.json_schema"),
        (
            {"response_format": with_schema(name="a b")},
            ErrorCode.INVALID_VALUE,
            "response_format.json_schema.name",
        ),
        (
            {"response_format": with_schema(name="x" * 65)},
            ErrorCode.INVALID_VALUE,
            "response_format.json_schema.name",
        ),
        (
            {"response_format": with_schema(schema=AS_TEXT)},
            ErrorCode.INVALID_TYPE,
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": with_schema(description=5)},
            ErrorCode.INVALID_TYPE,
            "response_format.json_schema.description",
        ),
        (
            {"response_format": with_schema(strict="yes")},
            ErrorCode.INVALID_TYPE,
            "response_format.json_schema.strict",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            ErrorCode.MISSING_PARAMETER,
            "response_format.json_schema.schema",
        ),
        ({"structured_outputs": {"xml": "x"}}, ErrorCode.UNKNOWN_PARAMETER, "structured_outputs.xml"),
        ({"structured_outputs": {"json": "{"}}, ErrorCode.INVALID_VALUE, "structured_outputs.json"),
        ({"structured_outputs": {"json": "[" * 100_000}}, ErrorCode.INVALID_VALUE, "structured_outputs.json"),
        ({"structured_outputs": {"json": "[]"}}, ErrorCode.INVALID_TYPE, "structured_outputs.json"),
        ({"structured_outputs": {"regex": ""}}, ErrorCode.INVALID_VALUE, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": []}}, ErrorCode.INVALID_VALUE, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": ["a", 1]}}, ErrorCode.INVALID_TYPE, "structured_outputs.choice.1"),
        ({"guided_choice": ["a", ""]}, ErrorCode.INVALID_VALUE, "guided_choice.1"),
        ({"guided_json": True}, ErrorCode.INVALID_TYPE, "guided_json"),
        ({"guided_regex": "a" * (1 << 16)}, ErrorCode.INVALID_VALUE, "guided_regex"),
        ({"guided_grammar": "a" * (1 << 20)}, ErrorCode.INVALID_VALUE, "guided_grammar"),
        ({"guided_choice": ["a"] * 100_000}, ErrorCode.INVALID_VALUE, "guided_choice"),
        ({"guided_json": {"enum": ["x" * (1 << 20)]}}, ErrorCode.INVALID_VALUE, "guided_json"),
        (
            {"response_format": with_schema(schema={"description": "x" * (1 << 20)})},
            ErrorCode.INVALID_VALUE,
            "response_format.json_schema.schema",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_wrong_is_refused_by_its_path(fields, code, param) -> None:
    refusal = refused(**fields)
    assert (refusal.code, refusal.param) == (code, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": FORMAT, "guided_regex": "a"}, "guided_regex"),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"json": SCHEMA}},
            "structured_outputs.json",
        ),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
        ({"guided_json": SCHEMA, "guided_grammar": "start: /a/"}, "guided_grammar"),
    ],
)
def test_two_forms_for_one_answer_are_refused(fields, param) -> None:
    refusal = refused(**fields)
    assert (refusal.code, refusal.param) == (ErrorCode.INVALID_VALUE, param)


def test_a_schema_keeps_the_order_of_its_properties() -> None:
    grammar = asked(guided_json={"properties": {"z": {}, "a": {}, "m": {}}})
    assert grammar is not None
    assert list(msgspec.json.decode(grammar.source)["properties"]) == ["z", "a", "m"]


def test_completions_take_the_same_fields() -> None:
    request = parse_completion_request({"model": "demo", "prompt": "hi", "guided_choice": ["yes", "no"]})
    assert grammar_of(request) == Grammar("choice", '["yes","no"]', "guided_choice")
