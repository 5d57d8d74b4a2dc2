"""What an answer must look like whose calls have to be valid, as a Lark grammar for `workers.grammar`.

An answer that must call is nothing but calls. One that may has text between them that never begins a call, so that
what begins one goes on as one; that is done where a tool is strict, or where the words have a grammar of their own.
"""

import json
import re
from collections.abc import Callable, Sequence

import msgspec

from schemas.errors import ErrorCode, RequestError
from schemas.jobs import ChatJob, Tool
from schemas.sampling import Grammar
from schemas.tool_forms import FORMS, MAX_CALLS, ToolForm

TokenId = Callable[[str], int | None]

_ANY_TEXT = r"/(?s:.*)/"
_CALL_LINE = r'/(?s:(.*\n)?)[ \t\r\n]*\{[ \t\r\n]*"name"(?s:.*)/'
_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
_ANY_OBJECT = {"type": "object"}
# White space as in what models are taught; what the engine does not know of a schema binds strict tools only.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def constrained(job: ChatJob, form_name: str, token_id: TokenId) -> ChatJob:
    """The job with a grammar for its calls, where it needs one.

    Raises RequestError where the words have a grammar beside which there can be no calls.
    """
    tools = [tool for tool in job.tools if not job.tool_choice.names or tool.name in job.tool_choice.names]
    words = job.sampling.grammar
    if not tools or not (job.tool_choice.is_required or words or any(tool.is_strict for tool in tools)):
        return job
    form = FORMS[form_name]
    most = MAX_CALLS if job.tool_choice.is_parallel else 1
    if job.tool_choice.is_required:
        start = [f"start: {_calls(form, most, token_id)}"]
    elif words is not None:
        start = [f"start: {_calls(form, most, token_id)} | words", f"words: %json {_schema_of(words, form)}"]
    else:
        start = _among_text(form, most, token_id)
    source = "\n".join(["%llguidance {}", *start, *_call_rules(form, tools, token_id), ""])
    sampling = msgspec.structs.replace(job.sampling, grammar=Grammar("lark", source, "tools"))
    return msgspec.structs.replace(job, sampling=sampling)


def _calls(form: ToolForm, most: int, token_id: TokenId) -> str:
    """One call or more."""
    call = _sequence(_mark(form.opening, token_id), "call")
    return call if most == 1 else f"{call} ({_sequence(_text(form.separator), call)}){{0,{most - 1}}}"


def _among_text(form: ToolForm, most: int, token_id: TokenId) -> list[str]:
    """Text with calls in it. A tag that is a token is no text; one that is not ends the text once it is there."""
    if not form.opening:
        return [f"start: {_calls(form, most, token_id)} | TEXT", f"TEXT: {_ANY_TEXT} & ~{_CALL_LINE}"]
    if token_id(form.opening) is None:
        head = f"head[lazy]: TEXT {_text(form.opening)}"
        return [f"start: (head call){{0,{most}}} TEXT", head, f"TEXT: {_ANY_TEXT}"]
    opening = _mark(form.opening, token_id)
    tag = re.escape(form.opening).replace("/", r"\/")
    return [f"start: (TEXT {opening} call){{0,{most}}} TEXT", f"TEXT: {_ANY_TEXT} & ~/(?s:.*){tag}(?s:.*)/"]


def _call_rules(form: ToolForm, tools: Sequence[Tool], token_id: TokenId) -> list[str]:
    before, behind = (_text(space) for space in form.margin)
    names = " | ".join(f"call_{index}" for index in range(len(tools)))
    lead, closing = _mark(form.lead, token_id), _mark(form.closing, token_id)
    rules = [f"call: {_sequence(lead, before, f'({names})', behind, closing)}"]
    for index, tool in enumerate(tools):
        head = f'{{"name": "{tool.name}", "{form.arguments_key}": '
        rules += [
            f'call_{index}: {_text(head)} arguments_{index} "}}"',
            f"arguments_{index}: %json {_arguments_schema(tool)}",
        ]
    return rules


def _mark(mark: str, token_id: TokenId) -> str:
    """A mark of the form: the token that it is, else its text."""
    number = token_id(mark) if mark else None
    return _text(mark) if number is None else f"<[{number}]>"


def _text(text: str) -> str:
    return json.dumps(text) if text else ""


def _sequence(*symbols: str) -> str:
    return " ".join(symbol for symbol in symbols if symbol)


def _arguments_schema(tool: Tool) -> str:
    schema = _ANY_OBJECT | json.loads(tool.parameters) if tool.parameters else _NO_ARGUMENTS
    options = {**_SPACING, "lenient": not tool.is_strict, "coerce_one_of": not tool.is_strict}
    return json.dumps({**schema, "x-guidance": options})


def _schema_of(words: Grammar, form: ToolForm) -> str:
    """Raises RequestError for words of another kind, and where only tags could tell a call from words in JSON."""
    match words.kind if form.opening else "":
        case "json_object":
            return json.dumps(_ANY_OBJECT)
        case "json_schema":
            return json.dumps(json.loads(words.source) | {"x-guidance": _SPACING})
        case _:
            message = f"Invalid value for '{words.param}': it cannot go with 'tools' that the model may call or not."
            raise RequestError(ErrorCode.INVALID_VALUE, message, words.param or None)
