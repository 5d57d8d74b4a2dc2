"""Structured output on the wire: OpenAI's `response_format`, and what other servers call the same thing.

At most one of them may ask for something. What it asks for becomes a `Grammar`; its size is checked here, its meaning
by the worker that compiles it.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field, WithJsonSchema

from schemas.errors import ErrorCode, RequestError
from schemas.openai.strict import StrictModel
from schemas.sampling import Grammar

MAX_SOURCE_BYTES = 1 << 17
MAX_REGEX_CHARS = 1 << 13
MAX_GRAMMAR_CHARS = 1 << 16
MAX_CHOICES = 1024
MAX_CHOICE_CHARS = 1024

Regex = Annotated[str, Field(min_length=1, max_length=MAX_REGEX_CHARS)]
LarkOrGbnf = Annotated[str, Field(min_length=1, max_length=MAX_GRAMMAR_CHARS)]
Choices = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_CHOICE_CHARS)]],
    Field(fail_fast=True, min_length=1, max_length=MAX_CHOICES),
]
Schema = Annotated[Any, WithJsonSchema({"type": ["object", "string", "null"]})]
"""Read by `schema_grammar`: a union would name no single fault."""


class JsonSchema(StrictModel):
    """A named schema. `strict` has no effect: an answer always keeps to its schema."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: Annotated[str, Field(max_length=8192)] | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(StrictModel):
    """OpenAI's `response_format`. One model for all three types: the errors of a union would name wrong paths."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(StrictModel):
    """vLLM's `structured_outputs`. `json` is a schema, as an object or as text."""

    json_: Annotated[Schema, Field(alias="json")] = None
    regex: Regex | None = None
    choice: Choices | None = None
    grammar: LarkOrGbnf | None = None
    json_object: bool | None = None


class StructuredRequest(StrictModel):
    """The part of a request that says what form the answer takes. `guided_*` are older names for the same."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema = None
    guided_regex: Regex | None = None
    guided_choice: Choices | None = None
    guided_grammar: LarkOrGbnf | None = None


def grammar_of(request: StructuredRequest) -> Grammar | None:
    """What the answer must conform to; None where the request leaves it free.

    Raises RequestError that names the field: two of them at once, a source too large, a schema that is none.
    """
    asked = [*_of_response_format(request.response_format), *_of_structured_outputs(request.structured_outputs)]
    asked += _grammars(
        "guided_",
        request.guided_json,
        request.guided_regex,
        request.guided_choice,
        request.guided_grammar,
    )
    if len(asked) > 1:
        raise _invalid(asked[1].param, f"it cannot go with '{asked[0].param}'")
    return asked[0] if asked else None


def schema_grammar(schema: object, param: str) -> Grammar:
    """The grammar of a JSON schema: an object, or one as text. Raises RequestError."""
    if isinstance(schema, str):
        try:
            schema = msgspec.json.decode(schema)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise _invalid(param, "it is not valid JSON") from None
    if not isinstance(schema, dict):
        raise RequestError(ErrorCode.INVALID_TYPE, f"Invalid type for '{param}': should be a JSON schema.", param)
    return _sized(Grammar("json_schema", msgspec.json.encode(schema).decode(), param))


def _of_response_format(wanted: ResponseFormat | None) -> Iterator[Grammar]:
    param = "response_format"
    if wanted is None:
        return
    if wanted.type == "json_schema":
        if wanted.json_schema is None:
            path = f"{param}.json_schema"
            raise RequestError(ErrorCode.MISSING_PARAMETER, f"Missing required parameter: '{path}'.", path)
        yield schema_grammar(wanted.json_schema.schema_, f"{param}.json_schema.schema")
    elif wanted.json_schema is not None:
        raise _invalid(f"{param}.json_schema", f"it needs '{param}.type' to be 'json_schema'")
    elif wanted.type == "json_object":
        yield Grammar("json_object", param=param)


def _of_structured_outputs(wanted: StructuredOutputs | None) -> Iterator[Grammar]:
    param = "structured_outputs."
    if wanted is None:
        return
    yield from _grammars(param, wanted.json_, wanted.regex, wanted.choice, wanted.grammar)
    if wanted.json_object:
        yield Grammar("json_object", param=param + "json_object")


def _grammars(
    prefix: str, schema: object, regex: str | None, choice: list[str] | None, lark: str | None
) -> Iterator[Grammar]:
    if schema is not None:
        yield schema_grammar(schema, prefix + "json")
    if regex is not None:
        yield Grammar("regex", regex, prefix + "regex")
    if choice is not None:
        yield _sized(Grammar("choice", msgspec.json.encode(choice).decode(), prefix + "choice"))
    if lark is not None:
        yield Grammar("lark", lark, prefix + "grammar")


def _sized(grammar: Grammar) -> Grammar:
    if len(grammar.source.encode()) > MAX_SOURCE_BYTES:
        raise _invalid(grammar.param, f"it has more than {MAX_SOURCE_BYTES} bytes as JSON")
    return grammar


def _invalid(param: str, reason: str) -> RequestError:
    return RequestError(ErrorCode.INVALID_VALUE, f"Invalid value for '{param}': {reason}.", param)
