"""Tools of a chat request, the choice among them, and the calls that come back in messages."""

from typing import Any

import pytest

from schemas.errors import ErrorCode, RequestError
from schemas.jobs import Tool, ToolChoice
from schemas.openai.chat import parse_chat_request
from schemas.openai.tools import MAX_TOOLS, MAX_TOOLS_BYTES, job_tool_choice, job_tools

LOOK = {"type": "function", "function": {"name": "look", "description": "See.", "parameters": {"type": "object"}}}
TIME = {"type": "function", "function": {"name": "get_time"}}


def read(**parameters: Any) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    request = parse_chat_request(
        {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "tools": [LOOK, TIME], **parameters}
    )
    tools = request.tools or []
    return job_tools(tools), job_tool_choice(request.tool_choice, request.parallel_tool_calls, tools)


def refusal_of(**parameters: Any) -> RequestError:
    with pytest.raises(RequestError) as refusal:
        read(**parameters)
    return refusal.value


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look", **fields}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def test_tools_keep_their_order_and_their_schemas_keys() -> None:
    schema = {"type": "object", "properties": {"z": {"const": "é"}, "a": {}}, "additionalProperties": False}
    tools, _ = read(tools=[function(parameters=schema, strict=True), TIME])
    assert tools == (
        Tool("look", None, '{"type": "object", "properties": {"z": {"const": "é"}, "a": {}}, '
             '"additionalProperties": false}', True),
        Tool("get_time"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("none", None),
        ("required", ToolChoice(is_required=True)),
        ({"type": "function", "function": {"name": "look"}}, ToolChoice(True, ("look",), False)),
        (allowed("auto", "look"), ToolChoice(False, ("look",))),
        (allowed("required", "get_time", "look", "look"), ToolChoice(True, ("get_time", "look"))),
    ],
)
def test_each_way_to_choose(choice: object, expected: ToolChoice | None) -> None:
    assert read(tool_choice=choice)[1] == expected


def test_calls_may_be_parallel_unless_the_request_says_no() -> None:
    assert read(parallel_tool_calls=False)[1] == ToolChoice(is_parallel=False)
    assert read(parallel_tool_calls=True, tool_choice="required")[1] == ToolChoice(is_required=True)


@pytest.mark.parametrize("tools", [None, []])
@pytest.mark.parametrize("choice", [None, "none", "auto"])
def test_without_tools_nothing_is_called(tools: object, choice: object) -> None:
    assert read(tools=tools, tool_choice=choice) == ((), None)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look"}}])
def test_without_tools_none_can_be_demanded(choice: object) -> None:
    assert refusal_of(tools=None, tool_choice=choice).param == "tool_choice"


@pytest.mark.parametrize(
    ("tool", "param", "code"),
    [
        ({}, "type", ErrorCode.MISSING_PARAMETER),
        ({"type": "custom", "custom": {"name": "x"}}, "type", ErrorCode.INVALID_VALUE),
        ({"type": "function"}, "function", ErrorCode.MISSING_PARAMETER),
        ({"type": "function", "function": {}}, "function.name", ErrorCode.MISSING_PARAMETER),
        (function(name=""), "function.name", ErrorCode.INVALID_VALUE),
        (function(name="a b"), "function.name", ErrorCode.INVALID_VALUE),
        (function(name="x" * 65), "function.name", ErrorCode.INVALID_VALUE),
        (function(name="look\n"), "function.name", ErrorCode.INVALID_VALUE),
        (function(description=5), "function.description", ErrorCode.INVALID_TYPE),
        (function(parameters="{}"), "function.parameters", ErrorCode.INVALID_TYPE),
        (function(parameters={"type": "string"}), "function.parameters", ErrorCode.INVALID_VALUE),
        (function(parameters={"type": ["object", "null"]}), "function.parameters", ErrorCode.INVALID_VALUE),
        (function(strict=1), "function.strict", ErrorCode.INVALID_TYPE),
        (function(returns={}), "function.returns", ErrorCode.UNKNOWN_PARAMETER),
        (TIME, "function.name", ErrorCode.INVALID_VALUE),
    ],
    ids=str,
)
def test_a_wrong_tool_is_refused_by_its_path(tool: object, param: str, code: ErrorCode) -> None:
    refusal = refusal_of(tools=[TIME, tool])
    assert (refusal.param, refusal.code) == (f"tools.1.{param}", code)


def test_there_is_a_limit_to_tools() -> None:
    many = [function(name=f"look_{number}") for number in range(MAX_TOOLS + 1)]
    assert len(read(tools=many[:-1])[0]) == MAX_TOOLS
    assert refusal_of(tools=many).param == "tools"
    assert refusal_of(tools=[function(description="é" * (MAX_TOOLS_BYTES // 2))]).param == "tools"


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ("any", "tool_choice"),
        ("", "tool_choice"),
        (5, "tool_choice"),
        (["auto"], "tool_choice"),
        ({}, "tool_choice.type"),
        ({"type": "custom", "custom": {"name": "look"}}, "tool_choice.type"),
        ({"type": "function"}, "tool_choice.function"),
        ({"type": "function", "name": "look"}, "tool_choice.function"),
        ({"type": "function", "function": {"name": 5}}, "tool_choice.function.name"),
        ({"type": "function", "function": {"name": "nope"}}, "tool_choice.function.name"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools"),
        (allowed("none", "look"), "tool_choice.allowed_tools.mode"),
        (allowed("auto"), "tool_choice.allowed_tools.tools"),
        (allowed("auto", "look", "nope"), "tool_choice.allowed_tools.tools.1.function.name"),
    ],
    ids=str,
)
def test_a_wrong_choice_is_refused_by_its_path(choice: object, param: str) -> None:
    assert refusal_of(tool_choice=choice).param == param


@pytest.mark.parametrize(("name", "successor"), [("functions", "tools"), ("function_call", "tool_choice")])
def test_the_parameters_before_tools_are_refused_and_their_successors_named(name: str, successor: str) -> None:
    refusal = refusal_of(**{name: [{"name": "look"}]})
    assert (refusal.param, refusal.code) == (name, ErrorCode.UNSUPPORTED_PARAMETER)
    assert f"'{successor}'" in refusal.message


@pytest.mark.parametrize(
    ("call", "param"),
    [
        ({}, "id"),
        ({"id": "", "type": "function", "function": {"name": "look", "arguments": ""}}, "id"),
        ({"id": "a", "type": "custom", "custom": {"name": "x", "input": ""}}, "type"),
        ({"id": "a", "type": "function", "function": {"name": "look"}}, "function.arguments"),
        ({"id": "a", "type": "function", "function": {"name": "look", "arguments": {}}}, "function.arguments"),
        ({"id": "a", "type": "function", "function": {"name": "<|im_end|>", "arguments": ""}}, "function.name"),
    ],
    ids=str,
)
def test_a_wrong_call_in_a_message_is_refused_by_its_path(call: object, param: str) -> None:
    assert (
        refusal_of(messages=[{"role": "assistant", "tool_calls": [call]}]).param == f"messages.0.tool_calls.0.{param}"
    )
