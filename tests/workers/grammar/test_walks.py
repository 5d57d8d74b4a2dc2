"""Whatever is drawn among the allowed tokens, an answer that comes to its end conforms."""

import json
import random
import re

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.grammar.compiled import closing, compiled, text_of, tokenizer, walk
from tests.workers.grammar.schemas import PATTERNS, make_schemas
from workers.engine.detokenizer import Detokenizer
from workers.grammar.compiling import GrammarError

SCHEMAS = make_schemas()
FAMILIES = ("internvl2-internlm2", "internvl-chat-v1-5", "internvl-chat-v1-1", "internvl2-phi3", "internvl2_5-qwen2")


def test_there_are_two_hundred_schemas() -> None:
    assert len(SCHEMAS) == 200


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_random_answer_under_a_schema_is_valid(name: str) -> None:
    schema = SCHEMAS[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    grammar = compiled("json_schema", schema)
    chosen = random.Random(name)
    whole = 0
    for _ in range(3):
        ids, is_whole = walk(grammar, closing(chosen), most=400)
        if is_whole:
            whole += 1
            jsonschema.validate(json.loads(text_of(ids)), schema)
    assert whole > 0


json_names = st.text(min_size=0, max_size=6)
leaves = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(
        lambda n, m: {"type": "integer", "minimum": min(n, m), "maximum": max(n, m)}, *[st.integers(-99, 99)] * 2
    ),
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 8)),
    st.builds(lambda values: {"enum": values}, st.lists(st.text(max_size=5) | st.integers(), min_size=1, max_size=4)),
    st.sampled_from([{"type": "string", "pattern": pattern} for pattern in PATTERNS]),
)


def _objects(inner: st.SearchStrategy) -> st.SearchStrategy:
    def closed(properties: dict, required: list[str]) -> dict:
        return {
            "type": "object",
            "properties": properties,
            "required": [name for name in properties if name in required],
            "additionalProperties": False,
        }

    return st.dictionaries(json_names, inner, max_size=3).flatmap(
        lambda properties: st.builds(closed, st.just(properties), st.lists(st.sampled_from([*properties, "-"])))
    )


schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        _objects(inner),
        st.builds(lambda items, n: {"type": "array", "items": items, "maxItems": n}, inner, st.integers(0, 3)),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(schema=schemas, seed=st.integers(0, 2**32))
def test_any_schema_made_of_these_parts_holds_its_answers(schema: dict, seed: int) -> None:
    ids, is_whole = walk(compiled("json_schema", schema), closing(random.Random(seed)), most=300)
    if is_whole:
        jsonschema.validate(json.loads(text_of(ids)), schema)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shown_text_conforms_for_every_kind_of_tokenizer(family: str) -> None:
    """Spaces that a family's decoding adds or takes away, and its clean-up, must not break what was constrained."""
    schema = SCHEMAS["mixtures-3"]
    grammar = compiled("json_schema", schema, family)
    chosen = random.Random(family)
    for _ in range(4):
        ids, is_whole = walk(grammar, closing(chosen, family), most=600, name=family)
        shown = Detokenizer(tokenizer(family), skip_special_tokens=True, is_verbatim=True)
        text = shown.append(ids) + shown.finish()
        assert text == text_of(ids, family)
        assert tokenizer(family).control_ids.isdisjoint(ids)
        if is_whole:
            jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_that_begins_with_a_space_is_shown_with_it(family: str) -> None:
    ids, is_whole = walk(compiled("choice", [" a .", " a ,"], family), min, most=20, name=family)
    assert is_whole
    shown = Detokenizer(tokenizer(family), skip_special_tokens=True, is_verbatim=True)
    assert shown.append(ids) + shown.finish() in (" a .", " a ,")


@pytest.mark.parametrize("pattern", [*PATTERNS, r"a{2,4}b?", r"(?:yes|no)\.", r"[^\x00-\x7f]{1,3}", r"x*", r"a/b\n"])
def test_a_random_answer_under_a_regex_matches_as_a_whole(pattern: str) -> None:
    grammar = compiled("regex", pattern)
    chosen = random.Random(pattern)
    for _ in range(5):
        ids, is_whole = walk(grammar, closing(chosen), most=200)
        if is_whole:
            assert re.fullmatch(pattern, text_of(ids))


def test_one_of_the_choices_comes_out_byte_by_byte() -> None:
    choices = ["yes", "yesterday", 'quo"te', "back\\slash", "new\nline", "日本", "😀", "a b"]
    grammar = compiled("choice", choices)
    chosen = random.Random(1)
    found = {text_of(walk(grammar, closing(chosen), most=50)[0]) for _ in range(60)}
    assert found <= set(choices) and len(found) > 4


@pytest.mark.parametrize(
    "source",
    [
        'start: "(" [NUMBER ("," NUMBER)*] ")"\nNUMBER: /[0-9]{1,3}/',
        'root ::= "(" (num ("," num)*)? ")"\nnum ::= [0-9] [0-9]? [0-9]?',
    ],
    ids=["lark", "gbnf"],
)
def test_grammars_are_read_in_both_notations(source: str) -> None:
    chosen = random.Random(3)
    for _ in range(10):
        ids, is_whole = walk(compiled("lark", source), closing(chosen), most=400)
        assert not is_whole or re.fullmatch(r"\((\d{1,3}(,\d{1,3})*)?\)", text_of(ids))


def test_a_lark_grammar_joins_special_tokens_and_schemas() -> None:
    """What calls of tools are made of: a token of the model's own, JSON under a schema, text."""
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    grammar = compiled("lark", f'start: "call:" %json {json.dumps(schema)} <|im_start|> "done"')
    ids, is_whole = walk(grammar, closing(random.Random(0)), most=60)
    assert is_whole
    end = tokenizer().token_id("<|im_start|>")
    assert ids.count(end) == 1 and text_of(ids[ids.index(end) + 1 :]) == "done"
    jsonschema.validate(json.loads(text_of(ids[: ids.index(end)]).removeprefix("call:")), schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {"type": "string"}},
        {"if": {"type": "string"}, "then": {"maxLength": 2}},
        {"type": "array", "uniqueItems": True},
        {"type": "array", "contains": {"type": "null"}},
        {"type": "object", "unevaluatedProperties": False},
        {"type": "object", "dependentRequired": {"a": ["b"]}},
        {"type": "object", "propertyNames": {"maxLength": 2}},
        {"type": "string", "format": "unheard-of"},
        {"type": "string", "pattern": "(?=a)b"},
        {"type": "text"},
        {"$ref": "http://198.51.100.1/schema.json"},
        {"$ref": "#/$defs/missing"},
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_kept_is_refused_with_a_reason(schema: dict) -> None:
    with pytest.raises(GrammarError, match=r"^[ -~]{5,}[^ .:]$"):
        compiled("json_schema", schema)


def test_a_schemas_own_hints_do_not_loosen_it() -> None:
    hints = {"lenient": True, "whitespace_flexible": True, "coerce_one_of": True}
    with pytest.raises(GrammarError):
        compiled("json_schema", {"x-guidance": hints, "type": "array", "uniqueItems": True})
