"""docs/api.md against routes, request models, limits and the table of errors."""

import re

from fastapi.routing import APIRoute

from schemas.errors import ErrorCode
from schemas.openai.chat import ChatCompletionRequest
from schemas.openai.completion import CompletionRequest, DetokenizeRequest, TokenizeRequest
from schemas.openai.media import ImageIo, MmProcessorKwargs, VideoIo
from schemas.openai.parameters import UNSUPPORTED
from server.app import create_app
from server.errors import ANSWERS, BAD_REQUEST
from tests.deploy.project import code_names, read, tables
from tests.fakes.memory_queue import MemoryQueue, tell
from workers.media import clip_rules, image
from workers.media.fetch import LIMITS as DOWNLOADS
from workers.media.guard import DEFAULT_PORTS
from workers.media.sandbox import LIMITS as DECODING
from workers.media.types import MediaKind

PAGE = read("docs/api.md")


def section(heading: str) -> str:
    return re.split(r"^## ", PAGE.split(f"\n{heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def _routes(routes: list) -> set[tuple[str, str]]:
    """Method and path of each route; a router that was included lazily holds its own."""
    found = set()
    for route in routes:
        if isinstance(route, APIRoute):
            found |= {(method, re.sub(r":\w+}", "}", route.path)) for method in route.methods}
        elif hasattr(route, "original_router"):
            found |= _routes(route.original_router.routes)
    return found


async def test_endpoints_are_the_routes() -> None:
    app = create_app(MemoryQueue(tell("hello")))
    listed = {(row[0], code_names(row[1])[0]) for row in tables(PAGE, "## Endpoints")}
    assert listed == {route for route in _routes(app.routes) if route[0] != "HEAD"}


def test_parameters_are_the_request_models() -> None:
    listed = {name for row in tables(PAGE, "## Chat completions: parameters") for name in code_names(row[0])}
    assert listed == set(ChatCompletionRequest.model_fields)


def test_parameters_of_completions_are_the_request_model() -> None:
    text, chat = section("## Completions: parameters"), set(ChatCompletionRequest.model_fields)
    absent = chat - set(CompletionRequest.model_fields)
    own = {name for row in tables(PAGE, "## Completions: parameters") for name in code_names(row[0])}
    assert own >= set(CompletionRequest.model_fields) - chat
    assert own <= set(CompletionRequest.model_fields)
    without_effect = {"metadata", "modalities", "service_tier", "safety_identifier"}
    media = {"mm_processor_kwargs", "media_io_kwargs"}
    named = {"messages", "max_completion_tokens", "top_logprobs", "add_generation_prompt"}
    named |= {"tools", "tool_choice", "parallel_tool_calls"}
    assert named <= set(code_names(text.partition("|")[0]))
    assert absent == named | media | without_effect | {"prompt_cache_key", "prompt_cache_retention"}


def test_parameters_of_tokenize_and_detokenize_are_the_request_models() -> None:
    for model in (TokenizeRequest, DetokenizeRequest):
        assert set(model.model_fields) <= set(code_names(section("## Tokens")))


def test_parameters_said_to_be_refused_are() -> None:
    text = section("## Chat completions: parameters").partition("Refused by name")[2]
    named = code_names(text.partition("The code is")[0])
    assert len(named) > 10
    for name in named:
        assert any(re.fullmatch(name.replace("*", r"\w+"), known) for known in UNSUPPORTED), name


def test_media_options_are_the_request_models() -> None:
    text = section("## Messages").partition("### Preparing media")[2]
    for model in (MmProcessorKwargs, VideoIo, ImageIo):
        assert set(model.model_fields) <= set(code_names(text))


def test_codes_and_statuses_are_those_of_the_table_of_errors() -> None:
    listed = {(int(row[0]), code) for row in tables(PAGE, "## Errors") for code in code_names(row[1])}
    assert listed == {(ANSWERS.get(code, BAD_REQUEST)[0], str(code)) for code in ErrorCode}


def test_limits_of_media_are_the_real_ones() -> None:
    rows = {row[0]: row[1:] for row in tables(PAGE, "## Messages")}
    kinds = (MediaKind.IMAGE, MediaKind.VIDEO)
    assert rows["file"] == [f"{DOWNLOADS[kind].size_bytes >> 20} MiB" for kind in kinds]
    assert rows["download"] == [f"{DOWNLOADS[kind].total_s:g} s" for kind in kinds]
    assert rows["decoding"] == [
        f"{DECODING[kind].memory_bytes >> 30} GiB, {DECODING[kind].cpu_s} s of CPU time" for kind in kinds
    ]
    assert rows["size"] == [
        f"{image.MAX_PIXELS // 10**6} megapixels, {image.MAX_SIDE} a side",
        f"{clip_rules.MAX_SIDE}x{clip_rules.MAX_PIXELS // clip_rules.MAX_SIDE}",
    ]
    assert rows["length"][1] == f"{clip_rules.MAX_DURATION_S // 60} minutes, {clip_rules.MAX_PACKETS} frames"
    assert DEFAULT_PORTS == {80, 443, *range(8000, 9000)}
