"""Tools of a chat request: functions that the model may call, the choice among them, and calls in earlier messages."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BeforeValidator, Field

from schemas.errors import ErrorCode, RequestError
from schemas.jobs import Tool, ToolChoice
from schemas.openai.strict import Model, StrictModel, validate

MAX_TOOLS = 128
MAX_TOOLS_BYTES = 512 * 1024
"""Of all tools of a request together, as JSON."""
MAX_CALL_ID_CHARS = 256

ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
CallId = Annotated[str, Field(min_length=1, max_length=MAX_CALL_ID_CHARS)]


class FunctionDefinition(StrictModel):
    """A function. `parameters` is the JSON schema of its arguments; without it, it takes none."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(StrictModel):
    """A tool of the only type that there is here."""

    type: Literal["function"]
    function: FunctionDefinition


Tools = Annotated[list[FunctionTool], Field(fail_fast=True, max_length=MAX_TOOLS)]


class CalledFunction(StrictModel):
    """What was called. `arguments` is JSON as the model wrote it; nobody has promised that it is valid."""

    name: ToolName
    arguments: str


class MessageToolCall(StrictModel):
    """A call in an earlier answer of the assistant."""

    id: CallId
    type: Literal["function"]
    function: CalledFunction


MessageToolCalls = Annotated[list[MessageToolCall], Field(fail_fast=True, max_length=MAX_TOOLS)]


class FunctionName(StrictModel):
    name: str


class NamedFunction(StrictModel):
    type: Literal["function"]
    function: FunctionName


class AllowedTools(StrictModel):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunction], Field(fail_fast=True, min_length=1, max_length=MAX_TOOLS)]


class AllowedToolsChoice(StrictModel):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _as_it_is(choice: Any) -> Any:
    return choice


_Mode = Literal["none", "auto", "required"]
AnyToolChoice = Annotated[
    Any, BeforeValidator(_as_it_is, json_schema_input_type=_Mode | NamedFunction | AllowedToolsChoice | None)
]
"""Read by `job_tool_choice`: a union would name no single fault."""


class _WithMode(StrictModel):
    tool_choice: _Mode


class _WithFunction(StrictModel):
    tool_choice: NamedFunction


class _WithAllowedTools(StrictModel):
    tool_choice: AllowedToolsChoice


def job_tools(tools: Sequence[FunctionTool]) -> tuple[Tool, ...]:
    """The tools as a worker reads them. Raises RequestError for what is too much or does not fit together."""
    if sum(len(msgspec.json.encode(tool.model_dump())) for tool in tools) > MAX_TOOLS_BYTES:
        raise _invalid("tools", f"together they have more than {MAX_TOOLS_BYTES} bytes")
    names: set[str] = set()
    for at, tool in enumerate(tools):
        param = f"tools.{at}.function"
        if tool.function.name in names:
            raise _invalid(f"{param}.name", "another tool has this name")
        names.add(tool.function.name)
        if (tool.function.parameters or {}).get("type", "object") != "object":
            raise _invalid(f"{param}.parameters", "it should be the schema of an object")
    return tuple(_tool(tool.function) for tool in tools)


def job_tool_choice(choice: object, is_parallel: bool | None, tools: Sequence[FunctionTool]) -> ToolChoice | None:
    """`tool_choice` and `parallel_tool_calls` as a worker reads them; None: no tool may be called. Raises RequestError.

    A function by its name stands for one call of just this one.
    """
    mode, names = _mode_and_names(choice)
    if not tools and (mode == "required" or names):
        raise _invalid("tool_choice", "there are no 'tools' to choose from")
    known = {tool.function.name for tool in tools}
    for param, name in names:
        if name not in known:
            raise _invalid(param, "'tools' has no function of this name")
    if mode == "none" or not tools:
        return None
    is_named = isinstance(choice, dict) and choice["type"] == "function"
    return ToolChoice(
        is_required=mode == "required",
        names=tuple(dict.fromkeys(name for _, name in names)),
        is_parallel=is_parallel is not False and not is_named,
    )


def _mode_and_names(choice: object) -> tuple[Literal["none", "auto", "required"], list[tuple[str, str]]]:
    """The mode, and the names with their places in the request."""
    if choice is None:
        return "auto", []
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "allowed_tools":
        allowed = _read(_WithAllowedTools, choice).tool_choice.allowed_tools
        param = "tool_choice.allowed_tools.tools"
        return allowed.mode, [
            (f"{param}.{at}.function.name", tool.function.name) for at, tool in enumerate(allowed.tools)
        ]
    if isinstance(choice, dict):
        named = _read(_WithFunction, choice).tool_choice
        return "required", [("tool_choice.function.name", named.function.name)]
    return _read(_WithMode, choice).tool_choice, []


def _read(model: type[Model], choice: object) -> Model:
    return validate(model, {"tool_choice": choice})


def _tool(function: FunctionDefinition) -> Tool:
    return Tool(
        name=function.name,
        description=function.description,
        parameters=json.dumps(function.parameters, ensure_ascii=False) if function.parameters else None,
        is_strict=bool(function.strict),
    )


def _invalid(param: str, reason: str) -> RequestError:
    return RequestError(ErrorCode.INVALID_VALUE, f"Invalid value for '{param}': {reason}.", param)
