"""Grammars as requests bring them: tried out in a child, refused with a reason, kept per tenant, never a crash."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from schemas.errors import EngineError, ErrorCode, RequestError
from schemas.sampling import Grammar
from tests.workers.grammar.compiled import allowed, eos_ids, tokenizer
from workers.grammar import library as library_module
from workers.grammar.library import GrammarLibrary


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "boolean"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema, "minItems": 1}
    return schema


def doubled(depth: int) -> dict[str, Any]:
    """A schema of some hundred bytes that stands for 2 ** depth alternatives."""
    defs: dict[str, Any] = {"d0": {"type": "object", "properties": {"x": {"type": "null"}}}}
    for at in range(1, depth):
        both = [{"$ref": f"#/$defs/d{at - 1}"}, {"type": "object", "properties": {f"p{at}": {"type": "null"}}}]
        defs[f"d{at}"] = {"anyOf": [{"allOf": both}, {"allOf": [*both, {"required": [f"p{at}"]}]}]}
    return {"$ref": f"#/$defs/d{depth - 1}", "$defs": defs}


HOSTILE = {
    "repeats of repeats": Grammar("regex", "(x{1000}){1000}"),
    "a repeat without end": Grammar("regex", "a{1000000000}"),
    "look-behind": Grammar("regex", "(?<=a)b"),
    "back-reference": Grammar("regex", r"(a)\1"),
    "open parenthesis": Grammar("regex", "(" * 5000),
    "deep parentheses": Grammar("regex", "(" * 4000 + "a" + ")" * 4000),
    "no text matches": Grammar("regex", r"a[^\x00-\U0010ffff]"),
    "repeats in a pattern": Grammar("json_schema", json.dumps({"type": "string", "pattern": "^(x{1000}){1000}$"})),
    "references in a circle": Grammar(
        "json_schema",
        json.dumps({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
    ),
    "a reference to a server": Grammar("json_schema", json.dumps({"$ref": "http://198.51.100.1/s.json"})),
    "a file": Grammar("json_schema", json.dumps({"$ref": "file:///etc/passwd"})),
    "deep": Grammar("json_schema", '{"items":' * 10_000 + "{}" + "}" * 10_000),
    "many branches": Grammar("json_schema", json.dumps({"anyOf": [{"const": {f"k{at}": at}} for at in range(5000)]})),
    "branches of branches": Grammar("json_schema", json.dumps(doubled(24))),
    "a number without end": Grammar("json_schema", json.dumps({"type": "integer", "multipleOf": 10**40})),
    "not JSON": Grammar("json_schema", '{"type": '),
    "a list": Grammar("json_schema", "[]"),
    "a rule of itself": Grammar("lark", "start: start"),
    "rules in a circle": Grammar("lark", "start: a\na: b\nb: a"),
    "no rule": Grammar("lark", "hello"),
    "a rule that is not there": Grammar("lark", "start: other"),
    "deep groups": Grammar("lark", "start: " + "(" * 20_000 + '"a"' + ")" * 20_000),
    "many options": Grammar("lark", "start: " + "[a] " * 15_000 + '\na: "x"'),
    "a broken GBNF": Grammar("lark", "root ::= ((((("),
    "a token that is not there": Grammar("lark", "start: <|nothing|>"),
}


@pytest.fixture
async def library() -> AsyncIterator[GrammarLibrary]:
    opened = GrammarLibrary(tokenizer(), tokenizer().vocab_size, eos_ids())
    yield opened
    await opened.close()


@pytest.mark.timeout(300)
async def test_hostile_grammars_are_refused_with_a_reason_and_the_next_one_works(library: GrammarLibrary) -> None:
    for name, grammar in HOSTILE.items():
        with pytest.raises(RequestError) as caught:
            await library.open(Grammar(grammar.kind, grammar.source, "guided"), "")
        assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_VALUE, "guided"), name
        assert caught.value.message.isascii() and caught.value.message.isprintable(), name
        assert len(caught.value.message) < 300, name
    assert allowed((await library.open(Grammar("choice", '["a"]'), "")).start(ignore_eos=False))


async def test_deep_and_recursive_schemas_within_reason_are_taken(library: GrammarLibrary) -> None:
    tree = {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}}
    for schema in (nested(60), tree, {"type": "array", "maxItems": 10**9}, {"type": "string", "maxLength": 10**9}):
        assert allowed((await library.open(Grammar("json_schema", json.dumps(schema)), "")).start(ignore_eos=False))


async def test_a_grammar_is_compiled_once_also_for_requests_that_come_together(library: GrammarLibrary) -> None:
    grammar = Grammar("regex", "a+", "first")
    first, second = await asyncio.gather(library.open(grammar, "t"), library.open(grammar, "t"))
    third = await library.open(Grammar("regex", "a+", "another field"), "t")
    assert first.matcher is second.matcher is third.matcher
    assert third.param == "another field"


async def test_nobody_finds_what_another_tenant_has_compiled(library: GrammarLibrary) -> None:
    grammar = Grammar("regex", "a+")
    first, second = await library.open(grammar, "one"), await library.open(grammar, "two")
    assert first.matcher is not second.matcher


async def test_what_is_kept_is_bounded_and_the_oldest_goes_first(
    library: GrammarLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_module, "MAX_GRAMMARS", 2)
    a, b, c = (Grammar("regex", letter) for letter in "abc")
    first = await library.open(a, "")
    await library.open(b, "")
    assert (await library.open(a, "")).matcher is first.matcher
    await library.open(c, "")
    assert (await library.open(a, "")).matcher is first.matcher
    monkeypatch.setattr(library_module, "MAX_SOURCE_BYTES", 1)
    await library.open(Grammar("regex", "ddd"), "")
    assert (await library.open(a, "")).matcher is not first.matcher


async def test_a_child_that_died_while_idle_is_replaced(library: GrammarLibrary) -> None:
    await library.open(Grammar("regex", "a"), "")
    checker = library._checker
    assert checker is not None and checker._process is not None
    died = checker._process
    died.kill()
    await died.wait()
    await library.open(Grammar("regex", "b"), "")
    assert checker._process.pid != died.pid


async def test_a_trial_that_ends_with_its_child_is_refused_and_may_be_tried_again(library: GrammarLibrary) -> None:
    await library.open(Grammar("regex", "a"), "")
    checker = library._checker
    assert checker is not None and checker._process is not None
    checker._process.kill()  # the news of its end has not come when the next grammar does
    with pytest.raises(RequestError):
        await library.open(Grammar("regex", "b"), "")
    await library.open(Grammar("regex", "b"), "")


async def test_a_client_that_leaves_while_its_grammar_is_tried_leaves_nothing_behind(library: GrammarLibrary) -> None:
    task = asyncio.create_task(library.open(Grammar("regex", "(x{1000}){1000}"), ""))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert allowed((await library.open(Grammar("regex", "a"), "")).start(ignore_eos=False))


async def test_tokens_of_another_worker_that_break_the_grammar_are_our_fault(library: GrammarLibrary) -> None:
    compiled = await library.open(Grammar("choice", '["yes"]'), "")
    wrong = tokenizer().encode("no", parse_special=False)
    with pytest.raises(EngineError):
        compiled.start(ignore_eos=False, emitted=wrong)
