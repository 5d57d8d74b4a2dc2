"""Structured output against a running daemon: OpenAI's own client with pydantic, the peers' fields, refusals."""

import json
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel, Field

from tests.e2e.served import Daemon, serve
from tests.e2e.test_requests import CHECKPOINT, MODEL, SMALL_PNG, image

MESSAGES: Any = [{"role": "user", "content": "What is this?"}]


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


class Spot(BaseModel):
    x: int = Field(ge=0, le=99)
    y: int = Field(ge=0, le=99)


class Finding(BaseModel):
    """What a client wants of a picture."""

    colour: Colour
    spots: list[Spot] = Field(max_length=2)
    sure: bool
    note: str | None = Field(max_length=8)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with serve([f"{MODEL}={CHECKPOINT}", "--num-kv-blocks", "300", "--max-model-len", "1024"]) as running:
        yield running


def ask(daemon: Daemon, path: str = "chat/completions", **fields: Any) -> httpx.Response:
    prompt = {"prompt": "One"} if path == "completions" else {"messages": MESSAGES}
    body = {"model": MODEL, "seed": 1, "max_tokens": 300, **prompt, **fields}
    return httpx.post(f"{daemon.base_url}/{path}", json=body, timeout=120)


def texts(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    choices = reply.json()["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["stop"] * len(choices), reply.text
    return [choice["text"] if "text" in choice else choice["message"]["content"] for choice in choices]


def test_parse_gives_a_model_of_pydantic(daemon: Daemon):
    messages: Any = [{"role": "user", "content": [image("data:image/png;base64," + SMALL_PNG)]}]
    answer = daemon.client().chat.completions.parse(model=MODEL, messages=messages, response_format=Finding, seed=3)
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(answer.choices[0].message.parsed, Finding)


def test_a_stream_is_parsed_as_it_comes(daemon: Daemon):
    with daemon.client().chat.completions.stream(
        model=MODEL, messages=MESSAGES, response_format=Finding, seed=4
    ) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion().choices[0].message
    assert isinstance(final.parsed, Finding)
    assert "".join(pieces) == final.content and len(pieces) > 1


def test_each_choice_keeps_to_the_schema_by_itself(daemon: Daemon):
    schema = {"type": "object", "properties": {"n": {"enum": list(range(50))}}, "required": ["n"]}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    found = texts(ask(daemon, response_format=form, n=4, temperature=1))
    assert len({json.loads(text)["n"] for text in found}) > 1


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"guided_regex": r"[a-c]{3}-\d"}, r"[a-c]{3}-\d"),
        ({"guided_choice": [" yes", "no "]}, r" yes|no "),
        ({"guided_grammar": 'start: "<" /[a-z]{1,4}/ ">"'}, r"<[a-z]{1,4}>"),
        ({"guided_json": {"type": "integer", "minimum": 10, "maximum": 20}}, r"1\d|20"),
        ({"structured_outputs": {"regex": "(ab){2}"}}, r"abab"),
        ({"structured_outputs": {"choice": ["x"]}, "min_tokens": 9, "ignore_eos": True}, r"x"),
    ],
    ids=str,
)
def test_peers_fields_hold_for_both_ways_to_ask(daemon: Daemon, path, fields, pattern):
    assert re.fullmatch(pattern, texts(ask(daemon, path, **fields))[0])


def test_an_object_of_any_kind_can_be_asked_for(daemon: Daemon):
    reply = ask(daemon, response_format={"type": "json_object"}, frequency_penalty=2, max_tokens=900)
    assert reply.status_code == 200
    choice = reply.json()["choices"][0]
    assert choice["message"]["content"].startswith("{")
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(choice["message"]["content"]), dict)


def test_a_stop_string_and_the_limit_cut_an_answer_off(daemon: Daemon):
    stopped = ask(daemon, guided_choice=["one, two"], stop=",").json()["choices"][0]
    assert (stopped["message"]["content"], stopped["finish_reason"]) == ("one", "stop")
    short = ask(daemon, guided_regex="[a-z]{200}", max_tokens=3).json()["choices"][0]
    assert short["finish_reason"] == "length"


def test_a_schema_that_nothing_ends_runs_into_the_limit(daemon: Daemon):
    endless = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
    reply = ask(daemon, guided_json=endless, max_tokens=40)
    assert reply.status_code == 200
    assert reply.json()["choices"][0]["finish_reason"] == "length"


def test_logprobs_are_those_of_the_free_distribution(daemon: Daemon):
    reply = ask(daemon, guided_choice=["yes"], logprobs=True, top_logprobs=1, temperature=0)
    first = reply.json()["choices"][0]["logprobs"]["content"][0]
    assert first["top_logprobs"][0]["logprob"] >= first["logprob"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "(?=a)b"}, "guided_regex"),
        ({"guided_regex": "(x{1000}){1000}"}, "guided_regex"),
        ({"guided_grammar": "start: start"}, "guided_grammar"),
        ({"structured_outputs": {"json": {"not": {}}}}, "structured_outputs.json"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"if": {}}}}},
            "response_format.json_schema.schema",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_compiled_is_a_bad_request_that_names_its_field(daemon: Daemon, fields, param, stream):
    reply = ask(daemon, **fields, stream=stream)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert (error["param"], error["code"], error["type"]) == (param, "invalid_value", "invalid_request_error")
    assert len(daemon.workers()) == 1


def test_the_sdk_raises_its_bad_request(daemon: Daemon):
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "text"}}}
    with pytest.raises(openai.BadRequestError) as caught:
        daemon.client().chat.completions.create(model=MODEL, messages=MESSAGES, response_format=form)
    assert caught.value.param == "response_format.json_schema.schema"
    daemon.wait_until_idle()
