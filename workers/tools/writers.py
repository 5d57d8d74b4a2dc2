"""How each form of `schemas.tool_forms` tells a model of its tools, of the calls it made and of what they gave back.

The forms are those of the models' own chat templates, letter by letter. What clients and models wrote (descriptions,
arguments, results) is plain text, in which no control token is recognised.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.jobs import Tool, ToolCall
from schemas.tool_forms import FORMS, HERMES, INTERNLM2, JSON_LINES
from workers.prompts.messages import ENVIRONMENT_ROLE, PLUGIN_ROLE, TOOLS_ROLE, ChatMessage, Control, Part, Text

NO_PARAMETERS = '{"type": "object", "properties": {}}'


@dataclass(frozen=True, slots=True)
class Result:
    """What a call of the tool gave back."""

    tool_name: str
    parts: tuple[Part, ...]


class ToolWriter(Protocol):
    """One form. `form_name` is its key in `schemas.tool_forms.FORMS`."""

    form_name: str

    def tools(self, tools: Sequence[Tool]) -> ChatMessage:
        """The message behind the leading system messages, if any."""
        ...

    def calls(self, calls: Sequence[ToolCall], has_content: bool) -> list[Part]:
        """What an assistant's turn has behind its content."""
        ...

    def results(self, results: Sequence[Result]) -> list[ChatMessage]:
        """The turns of results that follow each other."""
        ...


class HermesWriter:
    """Qwen2.5's and Hermes 2 Pro's: definitions and calls between tags, results as a user's turn."""

    form_name = HERMES

    def tools(self, tools: Sequence[Tool]) -> ChatMessage:
        """The end of the system text."""
        parts: list[Part] = [
            Control(
                "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
                "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
            )
        ]
        for tool in tools:
            parts += [Control("\n"), Text('{"type": "function", "function": ' + _definition(tool) + "}")]
        parts.append(
            Control(
                "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
                '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": '
                "<args-json-object>}\n</tool_call>"
            )
        )
        return ChatMessage(TOOLS_ROLE, tuple(parts))

    def calls(self, calls: Sequence[ToolCall], has_content: bool) -> list[Part]:
        """Each on lines of its own."""
        return _calls(self.form_name, calls, has_content)

    def results(self, results: Sequence[Result]) -> list[ChatMessage]:
        """One turn for all."""
        parts: list[Part] = []
        for index, result in enumerate(results):
            opening = "<tool_response>\n"
            parts += [Control("\n" + opening if index else opening), *result.parts, Control("\n</tool_response>")]
        return [ChatMessage("user", tuple(parts))]


class InternLM2Writer:
    """InternLM2's: a second system turn with the definitions, a turn of the environment for each result."""

    form_name = INTERNLM2

    def tools(self, tools: Sequence[Tool]) -> ChatMessage:
        """A turn of its own."""
        return ChatMessage(PLUGIN_ROLE, (Text("[" + ", ".join(map(_definition, tools)) + "]"),))

    def calls(self, calls: Sequence[ToolCall], has_content: bool) -> list[Part]:
        """Right behind the content."""
        return _calls(self.form_name, calls, has_content)

    def results(self, results: Sequence[Result]) -> list[ChatMessage]:
        """One turn each."""
        return [ChatMessage(ENVIRONMENT_ROLE, result.parts) for result in results]


class JsonLinesWriter:
    """For models that were never taught a form: said in words, without tokens of its own."""

    form_name = JSON_LINES

    def tools(self, tools: Sequence[Tool]) -> ChatMessage:
        """The end of the system text."""
        definitions = "\n".join(map(_definition, tools))
        text = (
            "You can call functions. Each line here describes one of them as JSON:\n"
            f"{definitions}\n"
            "To call a function, write a line of its own that holds a JSON object and nothing else:\n"
            '{"name": "the function\'s name", "arguments": {an object with its arguments}}\n'
            "The next message then tells what the function gave back. If no function helps, answer in words."
        )
        return ChatMessage(TOOLS_ROLE, (Text(text),))

    def calls(self, calls: Sequence[ToolCall], has_content: bool) -> list[Part]:
        """A line each."""
        return _calls(self.form_name, calls, has_content)

    def results(self, results: Sequence[Result]) -> list[ChatMessage]:
        """One turn for all, with the functions' names."""
        parts: list[Part] = []
        for index, result in enumerate(results):
            parts += [Control("\n")] if index else []
            parts += [Text(result.tool_name), Control(" gave back:\n"), *result.parts]
        return [ChatMessage("user", tuple(parts))]


def _calls(form_name: str, calls: Sequence[ToolCall], has_content: bool) -> list[Part]:
    form = FORMS[form_name]
    before, behind = form.margin
    parts: list[Part] = []
    for index, call in enumerate(calls):
        separator = form.separator if index or has_content else ""
        parts += [
            Control(f'{separator}{form.opening}{form.lead}{before}{{"name": "'),
            Text(call.name),
            Control(f'", "{form.arguments_key}": '),
            Text(call.arguments.strip() or "{}"),
            Control(f"}}{behind}{form.closing}"),
        ]
    return parts


def _definition(tool: Tool) -> str:
    described = f'"description": {json.dumps(tool.description, ensure_ascii=False)}, ' if tool.description else ""
    return f'{{"name": "{tool.name}", {described}"parameters": {tool.parameters or NO_PARAMETERS}}}'
