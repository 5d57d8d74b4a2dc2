"""Every field of the SDK's types of a request, at any depth: it changes what the worker is told, or is known to change
nothing, or is refused by its name. None is silently ignored."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from openai.types import completion_create_params as completions
from openai.types.chat import completion_create_params as chats
from openai.types.responses import response_create_params as responses

from schemas.control import ModelCard
from schemas.errors import RequestError
from schemas.jobs import Job
from schemas.openai.chat import parse_chat_request
from schemas.openai.completion import parse_completion_request
from schemas.openai.responses import parse_responses_request
from server.errors import ANSWERS, BAD_REQUEST
from server.param_names import ParamNames
from server.responses.translate import to_chat
from server.submit import JobMaker
from tests.server.sdk_fields import MISSING, Field, Walk

URL = "https://example.com/x.png"
CARD = ModelCard(name="demo", max_model_len=4096, created=0, architecture="Demo")
MAKER = JobMaker(max_images=9, max_videos=9, timeout_s=60.0)


OBJECT = {"type": "object"}
CALL = {"id": "x", "type": "function", "function": {"name": "x", "arguments": "{}"}}

CHAT, COMPLETION, RESPONSE = (
    chats.CompletionCreateParamsNonStreaming,
    completions.CompletionCreateParamsNonStreaming,
    responses.ResponseCreateParamsNonStreaming,
)
SAMPLES: dict[str, Any] = {
    "CompletionCreateParamsNonStreaming.model": "demo",
    "CompletionCreateParamsNonStreaming.n": 2,
    "CompletionCreateParamsNonStreaming.best_of": 2,
    "CompletionCreateParamsNonStreaming.seed": 7,
    "CompletionCreateParamsNonStreaming.parallel_tool_calls": False,
    "ResponseCreateParamsNonStreaming.model": "demo",
    "ResponseCreateParamsNonStreaming.parallel_tool_calls": False,
    "ImageURL.url": URL,
    "ResponseInputImageParam.image_url": URL,
    "ResponseInputImageContentParam.image_url": URL,
    "ResponseInputFileParam.file_url": URL,
    "ResponseInputFileParam.file_data": "data:image/png;base64,AAAA",
    "ResponseInputFileContentParam.file_url": URL,
    "ResponseInputFileContentParam.file_data": "data:image/png;base64,AAAA",
    "JSONSchema.schema": OBJECT,
    "ResponseFormatTextJSONSchemaConfigParam.schema": OBJECT,
    "ChatCompletionAllowedToolsParam.tools": [{"type": "function", "function": {"name": "x"}}],
    "ToolChoiceAllowedParam.tools": [{"type": "function", "name": "x"}],
}
ALSO: dict[str, dict[str, Any]] = {
    "ResponseCreateParamsNonStreaming": {"model": "demo"},
    "ResponseInputImageParam": {"image_url": URL},
    "ResponseInputImageContentParam": {"image_url": URL},
    "ResponseInputFileParam": {"file_url": URL},
    "ResponseInputFileContentParam": {"file_url": URL},
    "JSONSchema": {"schema": OBJECT},
    "FunctionCallOutput": {"call_id": "x"},
}
INSTEAD = {f"{part}.file_data": "file_url" for part in ("ResponseInputFileParam", "ResponseInputFileContentParam")}


def chat_jobs(body: dict[str, Any]) -> list[Job]:
    body = {"seed": 3, **body}
    if "top_logprobs" in body:
        body["logprobs"] = True
    if "stream_options" in body:
        body["stream"] = True
    if body.keys() & {"tool_choice", "parallel_tool_calls"}:
        body = {"tools": [{"type": "function", "function": {"name": "x"}}]} | body
    first = body["messages"][0]
    if first["role"] == "tool":
        body["messages"] = [{"role": "assistant", "tool_calls": [CALL]}, *body["messages"]]
    if isinstance(first.get("tool_calls"), list):
        body["messages"] = [*body["messages"], {"role": "tool", "tool_call_id": "x", "content": "x"}]
    return [MAKER.chat_job(parse_chat_request(body), "", CARD)]


def completion_jobs(body: dict[str, Any]) -> list[Job]:
    body = {"seed": 3, **body}
    if "stream_options" in body:
        body["stream"] = True
    return [*MAKER.completion_jobs(parse_completion_request(body), "", CARD)]


def responses_jobs(body: dict[str, Any]) -> list[Job]:
    body = {"input": "hello", "seed": 3, **body}
    if "top_logprobs" in body:
        body["include"] = ["message.output_text.logprobs"]
    if "stream_options" in body:
        body["stream"] = True
    if body.keys() & {"tool_choice", "parallel_tool_calls"}:
        body = {"tools": [{"type": "function", "name": "x"}]} | body
    first = body["input"][0]
    call = {"type": "function_call", "call_id": "x", "name": "x", "arguments": "{}"}
    if isinstance(first, dict) and first.get("type") == "function_call_output":
        body["input"] = [call, *body["input"]]
    if isinstance(first, dict) and first.get("type") == "function_call":
        body["input"] = [*body["input"], {"type": "function_call_output", "call_id": "x", "output": "x"}]
    request, passed_on = parse_responses_request(body)
    names = ParamNames()
    chat = to_chat(request, passed_on, [], names)
    with names.in_errors():
        return [MAKER.chat_job(chat, "", CARD)]


@dataclass
class Outcome:
    """What became of the fields of a type of a request. unheard: accepted, and the worker is told nothing of it."""

    heard: set[str] = field(default_factory=set)
    unheard: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)


def outcome_of(kind: Any, jobs_of: Callable[[dict[str, Any]], list[Job]]) -> Outcome:
    """Ask for each field, by itself. Raises AssertionError where a refusal names something else."""
    outcome = Outcome()
    for one in Walk(SAMPLES, ALSO, INSTEAD).fields(kind):
        try:
            told = anonymous(jobs_of(one.value))
        except RequestError as refusal:
            assert ANSWERS.get(refusal.code, BAD_REQUEST)[0] == 400
            assert names(refusal, one), (one.name, refusal.param)
            outcome.refused.add(one.name)
            continue
        if one.without is not MISSING:
            is_heard = told != anonymous(jobs_of(one.without))
            (outcome.heard if is_heard else outcome.unheard).add(one.name)
    return outcome


def names(refusal: RequestError, asked: Field) -> bool:
    """Whether a refusal names the field, or an object that it is in, or the type of such an object."""
    named = [step for step in (refusal.param or "").split(".") if not step.isdigit()]
    path = asked.path.split(".")
    is_in = path[: len(named)] == named or path == named[: len(path)]
    is_type = named[-1:] in (["type"], ["role"]) and path[: len(named) - 1] == named[:-1]
    return bool(named) and (is_in or is_type)


def anonymous(jobs: list[Job]) -> list[Job]:
    return [msgspec.structs.replace(job, job_id="") for job in jobs]


def of(kind: str, *fields: str) -> Iterator[str]:
    yield from (f"{kind}.{name}" for name in fields)


BASE, OURS = "CompletionCreateParamsNonStreaming", "ResponseCreateParamsNonStreaming"
OF_OPENAIS_OWN = ("prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier", "user")

WITHOUT_EFFECT: dict[Any, set[str]] = {
    CHAT: {
        *of(BASE, "metadata", *OF_OPENAIS_OWN),
        "ChatCompletionDeveloperMessageParam.name",
        "ChatCompletionSystemMessageParam.name",
        "ChatCompletionUserMessageParam.name",
        "ChatCompletionAssistantMessageParam.name",
        "ChatCompletionStreamOptionsParam.include_obfuscation",
        "PromptCacheBreakpoint.ttl",
        *of("JSONSchema", "description", "strict"),
    },
    COMPLETION: {f"{BASE}.user", "ChatCompletionStreamOptionsParam.include_obfuscation"},
    RESPONSE: {
        *of(OURS, "max_tool_calls", *OF_OPENAIS_OWN),
        "EasyInputMessageParam.phase",
        "ResponseOutputMessageParam.phase",
        "Message.status",
        *of("ResponseFunctionToolCallParam", "id", "status"),
        *of("FunctionCallOutput", "id", "status"),
        "PromptCacheBreakpoint.ttl",
        "StreamOptions.include_obfuscation",
        *of("ResponseFormatTextJSONSchemaConfigParam", "description", "strict"),
    },
}
"""What docs/api.md says to have no effect."""
SAME_AS_ABSENT: dict[Any, set[str]] = {
    CHAT: {
        *of(BASE, "function_call=none", "function_call=auto", "modalities=text", "reasoning_effort=none"),
        *of(BASE, "tool_choice=none", "verbosity=medium"),
        "ImageURL.detail=auto",
    },
    COMPLETION: set(),
    RESPONSE: {
        *of(OURS, "tool_choice=none", "truncation=disabled"),
        *of("ResponseInputFileParam", "detail=auto", "filename"),
        *of("ResponseInputFileContentParam", "detail=auto", "filename"),
        "ResponseInputImageContentParam.detail=auto",
        "EasyInputMessageParam.type",
        "Message.type",
        "Reasoning.effort=none",
        "ResponseTextConfigParam.verbosity=medium",
    },
}
"""Defaults, and what says again what the rest says."""
OF_THE_ANSWER: dict[Any, set[str]] = {
    CHAT: {f"{BASE}.stream", "ChatCompletionStreamOptionsParam.include_usage"},
    COMPLETION: {f"{BASE}.stream", "ChatCompletionStreamOptionsParam.include_usage"},
    RESPONSE: {*of(OURS, "background", "metadata", "previous_response_id", "store", "stream")},
}
"""What the gateway does by itself; other tests show it."""


@pytest.mark.parametrize(
    ("kind", "jobs_of", "least_heard", "least_refused"),
    [(CHAT, chat_jobs, 20, 60), (COMPLETION, completion_jobs, 10, 2), (RESPONSE, responses_jobs, 10, 500)],
    ids=["chat", "completion", "response"],
)
def test_no_field_is_silently_ignored(
    kind: Any, jobs_of: Callable[[dict[str, Any]], list[Job]], least_heard: int, least_refused: int
) -> None:
    outcome = outcome_of(kind, jobs_of)
    without_effect = {name for name in outcome.unheard if name.partition("=")[0] in WITHOUT_EFFECT[kind]}
    assert {name.partition("=")[0] for name in without_effect} == WITHOUT_EFFECT[kind]
    assert outcome.unheard - without_effect == SAME_AS_ABSENT[kind] | OF_THE_ANSWER[kind]
    assert len(outcome.heard) >= least_heard and len(outcome.refused) >= least_refused
    assert {name.partition("=")[0] for name in outcome.heard}.isdisjoint(WITHOUT_EFFECT[kind])


def test_a_field_of_a_later_sdk_is_refused_by_its_name() -> None:
    for jobs_of, body in (
        (chat_jobs, {"model": "demo", "messages": [{"role": "user", "content": "x"}]}),
        (completion_jobs, {"model": "demo", "prompt": "x"}),
        (responses_jobs, {"model": "demo"}),
    ):
        assert jobs_of(dict(body))
        with pytest.raises(RequestError) as refusal:
            jobs_of({**body, "new_field": {"a": 1}})
        assert (refusal.value.code, refusal.value.param) == ("unknown_parameter", "new_field")
