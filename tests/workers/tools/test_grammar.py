"""Grammars of calls, judged by the engine itself, on real tokenizers of each form."""

import json
from functools import cache
from typing import Any

import pytest

from schemas.errors import RequestError
from schemas.jobs import ChatJob, Tool, ToolChoice
from schemas.sampling import Grammar, SamplingParams
from schemas.tool_forms import FORMS, MAX_CALLS
from tests.workers.tokenizers.checkpoints import tokenizer
from workers.grammar.compiling import GrammarError, open_matcher, probe, translate
from workers.grammar.vocabulary import build_tokenizer, plain_encoder, read_vocabulary
from workers.tools.conversation import pick_writer
from workers.tools.grammar import constrained

NAMES = ["internvl2_5-qwen2", "internvl2-qwen2", "internvl2-internlm2", "internvl2-phi3"]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/City"}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"City": {"enum": ["Rome", "Oslo"]}},
}
WEATHER, TIME = Tool("get_weather", "Weather.", json.dumps(SCHEMA)), Tool("get_time")
STRICT = Tool("get_weather", None, json.dumps(SCHEMA), is_strict=True)
ROME, OSLO, NOW = (
    ("get_weather", '{"city": "Rome"}'),
    ("get_weather", '{"city": "Oslo", "days": 3}'),
    ("get_time", "{}"),
)
WORDS = Grammar(
    "json_schema", '{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}', "response_format"
)


@cache
def engine_tokenizer(name: str) -> Any:
    own = tokenizer(name)
    vocabulary = read_vocabulary(own, own.vocab_size, [own.eos_token_id] if own.eos_token_id is not None else [])
    return build_tokenizer(vocabulary, plain_encoder(own))


def job_of(choice: ToolChoice, tools: tuple[Tool, ...], words: Grammar | None = None) -> ChatJob:
    sampling = SamplingParams(seed=0, grammar=words)
    return ChatJob(job_id="a", model="b", messages=(), sampling=sampling, tools=tools, tool_choice=choice)


def grammar_of(name: str, choice: ToolChoice, *tools: Tool, words: Grammar | None = None) -> Grammar | None:
    form_name = pick_writer(tokenizer(name), has_named_turns=True).form_name
    return constrained(
        job_of(choice, tools or (WEATHER, TIME), words), form_name, tokenizer(name).token_id
    ).sampling.grammar


def written(name: str, *calls: tuple[str, str]) -> list[int]:
    """The ids of calls as the model's form has them, tags as tokens where they are."""
    form = FORMS[pick_writer(tokenizer(name), has_named_turns=True).form_name]
    ids: list[int] = []
    for index, (tool, arguments) in enumerate(calls):
        body = f'{form.margin[0]}{{"name": "{tool}", "{form.arguments_key}": {arguments}}}{form.margin[1]}'
        for piece in (form.separator if index else "", form.opening, form.lead, body, form.closing):
            token_id = tokenizer(name).token_id(piece) if piece in form.marks else None
            ids += [token_id] if token_id is not None else spelled(name, piece)
    return ids


def spelled(name: str, text: str) -> list[int]:
    ids: list[int] = engine_tokenizer(name).tokenize_str(text)
    return ids


def accepts(name: str, grammar: Grammar | None, ids: list[int]) -> bool:
    assert grammar is not None
    matcher = open_matcher(engine_tokenizer(name), translate(grammar))
    probe(matcher, [tokenizer(name).eos_token_id or 0])
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_required_is_calls_with_valid_arguments_and_nothing_else(name: str) -> None:
    grammar = grammar_of(name, ToolChoice(is_required=True))
    assert accepts(name, grammar, written(name, ROME))
    assert accepts(name, grammar, written(name, NOW, OSLO, ROME))
    assert accepts(name, grammar, written(name, *[NOW] * MAX_CALLS))
    assert not accepts(name, grammar, written(name, *[NOW] * (MAX_CALLS + 1)))
    for arguments in ('{"city": "Bonn"}', "{}", '{"city": "Rome", "x": 1}', '{"city":"Rome"'):
        assert not accepts(name, grammar, written(name, ("get_weather", arguments)))
    assert not accepts(name, grammar, written(name, ("get_time", '{"x": 1}')))
    assert not accepts(name, grammar, written(name, ("nope", "{}")))
    assert not accepts(name, grammar, [*spelled(name, "Well. "), *written(name, NOW)])
    assert not accepts(name, grammar, [])


@pytest.mark.parametrize("name", NAMES)
def test_a_named_tool_is_called_once(name: str) -> None:
    grammar = grammar_of(name, ToolChoice(True, ("get_time",), is_parallel=False))
    assert accepts(name, grammar, written(name, NOW))
    assert not accepts(name, grammar, written(name, NOW, NOW))
    assert not accepts(name, grammar, written(name, ROME))


@pytest.mark.parametrize("name", NAMES)
def test_a_choice_without_strict_tools_is_left_alone(name: str) -> None:
    assert grammar_of(name, ToolChoice()) is None
    assert grammar_of(name, ToolChoice(names=("get_time",)), STRICT, TIME) is None


@pytest.mark.parametrize("name", NAMES)
def test_strict_tools_bind_calls_but_not_words(name: str) -> None:
    grammar = grammar_of(name, ToolChoice(), STRICT, TIME)
    for text in ("", "Hello.", '{"a": 1}', "a < b", "<tool", "two\nlines"):
        assert accepts(name, grammar, spelled(name, text))
    assert accepts(name, grammar, written(name, ROME, NOW))
    assert not accepts(name, grammar, written(name, ("get_weather", '{"city": "Bonn"}')))
    if FORMS[pick_writer(tokenizer(name), has_named_turns=True).form_name].opening:
        assert accepts(name, grammar, [*spelled(name, "Hm.\n"), *written(name, OSLO), *spelled(name, "\nSo.")])
        bad = written(name, ("get_weather", '{"city": "Bonn"}'))
        assert not accepts(name, grammar, [*spelled(name, "Hm.\n"), *bad])


@pytest.mark.parametrize("name", NAMES[:3])
def test_words_with_a_schema_stand_beside_calls(name: str) -> None:
    grammar = grammar_of(name, ToolChoice(), words=WORDS)
    assert accepts(name, grammar, spelled(name, '{"a": 1}'))
    assert accepts(name, grammar, written(name, NOW, ROME))
    assert not accepts(name, grammar, spelled(name, "Hello."))
    either = grammar_of(name, ToolChoice(), words=Grammar("json_object"))
    assert accepts(name, either, spelled(name, '{"b": []}'))
    required = grammar_of(name, ToolChoice(is_required=True), words=WORDS)
    assert not accepts(name, required, spelled(name, '{"a": 1}'))


@pytest.mark.parametrize(
    ("name", "words"), [(NAMES[0], Grammar("regex", "a+", "guided_regex")), (NAMES[3], WORDS)], ids=["kind", "form"]
)
def test_words_that_could_not_be_told_from_calls_are_refused(name: str, words: Grammar) -> None:
    with pytest.raises(RequestError) as refusal:
        grammar_of(name, ToolChoice(), words=words)
    assert refusal.value.param == words.param


def test_without_tools_a_job_stays_as_it_is() -> None:
    job = job_of(ToolChoice(), (), WORDS)
    assert constrained(job, "hermes", tokenizer(NAMES[0]).token_id) is job


def test_keywords_that_the_engine_lacks_bind_strict_tools_only() -> None:
    schema = json.dumps({"type": "object", "properties": {"x": {"type": "array", "uniqueItems": True}}})
    lenient = grammar_of(NAMES[0], ToolChoice(True), Tool("look", None, schema))
    assert accepts(NAMES[0], lenient, written(NAMES[0], ("look", '{"x": [1]}')))
    strict = grammar_of(NAMES[0], ToolChoice(True), Tool("look", None, schema, is_strict=True))
    assert strict is not None and strict.param == "tools"
    with pytest.raises(GrammarError, match="uniqueItems"):
        accepts(NAMES[0], strict, [])


def test_arguments_are_objects_whatever_their_schema_says() -> None:
    grammar = grammar_of(NAMES[0], ToolChoice(True), Tool("look", None, '{"description": "x"}'))
    assert accepts(NAMES[0], grammar, written(NAMES[0], ("look", '{"any": ["thing"]}')))
    assert not accepts(NAMES[0], grammar, written(NAMES[0], ("look", "[]")))


def test_what_a_schema_holds_is_no_grammar() -> None:
    schema = {"type": "object", "properties": {"x": {"const": 'a::=b "\\" /*\nstart: "y"'}}, "required": ["x"]}
    grammar = grammar_of(NAMES[0], ToolChoice(True), Tool("look", None, json.dumps(schema)))
    arguments = json.dumps({"x": schema["properties"]["x"]["const"]})  # type: ignore[index]
    assert accepts(NAMES[0], grammar, written(NAMES[0], ("look", arguments)))


def test_many_tools_fit_into_one_grammar() -> None:
    tools = [Tool(f"tool_{number}", None, json.dumps(SCHEMA)) for number in range(64)]
    grammar = grammar_of(NAMES[0], ToolChoice(True), *tools)
    assert accepts(NAMES[0], grammar, written(NAMES[0], ("tool_63", '{"city": "Rome"}')))
