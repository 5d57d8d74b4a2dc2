"""Tools against a running daemon: models that were never taught to call, random weights among them, call correctly."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
from openai import OpenAI

from tests.e2e.goldens import LEAN
from tests.e2e.served import Daemon, serve
from tests.e2e.test_requests import SMALL_PNG, image

ROOT = Path(__file__).parents[2]
MODELS = {
    "demo": ROOT / "workers/demo/checkpoint",
    "internlm2": LEAN / "internvl2-internlm2/checkpoint",
    "phi3": LEAN / "internvl2-phi3/checkpoint",
}
"""One for each form: Hermes', InternLM2's, JSON lines."""
COUNT = {
    "type": "object",
    "properties": {
        "shape": {"$ref": "#/$defs/Shape"},
        "at_most": {"type": "integer", "minimum": 1, "maximum": 20},
        "exact": {"type": "boolean"},
    },
    "required": ["shape", "exact"],
    "additionalProperties": False,
    "$defs": {"Shape": {"enum": ["circle", "square", 'star <|im_end|> " é']}},
}
SCHEMAS = {"count": COUNT, "wait": {"type": "object", "properties": {}, "additionalProperties": False}}
TOOLS: Any = [
    {"type": "function", "function": {"name": "count", "description": "Counts shapes.", "parameters": COUNT}},
    {"type": "function", "function": {"name": "wait"}},
]
PICTURE = image(f"data:image/png;base64,{SMALL_PNG}")
MESSAGES: Any = [{"role": "user", "content": [PICTURE, {"type": "text", "text": "What is this?"}]}]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    served = [f"{name}={folder}" for name, folder in MODELS.items()]
    with serve([*served, "--num-kv-blocks", "400", "--max-model-len", "4096"]) as running:
        yield running


@pytest.fixture
def client(daemon: Daemon) -> OpenAI:
    return daemon.client()


def check(calls: Any) -> None:
    for call in calls:
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])


@pytest.mark.parametrize("model", MODELS)
def test_a_model_that_must_call_makes_valid_calls(client: OpenAI, model: str) -> None:
    for seed in range(2):
        answer = client.chat.completions.create(
            model=model, messages=MESSAGES, tools=TOOLS, tool_choice="required", n=2, seed=seed, temperature=1
        )
        for choice in answer.choices:
            assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
            assert choice.message.tool_calls
            check(choice.message.tool_calls)


@pytest.mark.parametrize("model", MODELS)
def test_a_named_function_is_called_once_and_streamed_as_whole(client: OpenAI, model: str) -> None:
    request: Any = {
        "model": model, "messages": MESSAGES, "tools": TOOLS, "seed": 7,
        "tool_choice": {"type": "function", "function": {"name": "count"}},
    }  # fmt: skip
    whole: Any = client.chat.completions.create(**request).choices[0].message.tool_calls
    with client.chat.completions.stream(**request) as stream:
        streamed: Any = stream.get_final_completion().choices[0].message.tool_calls
    assert [call.function.name for call in whole] == ["count"]
    check(whole)
    assert [call.function.arguments for call in streamed] == [call.function.arguments for call in whole]


@pytest.mark.parametrize("model", MODELS)
def test_strict_tools_and_a_stop_leave_the_choice_to_the_model(client: OpenAI, model: str) -> None:
    strict: Any = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    answer = client.chat.completions.create(model=model, messages=MESSAGES, tools=strict, seed=1, max_tokens=40)
    choice = answer.choices[0]
    assert choice.finish_reason in ("stop", "length", "tool_calls")
    assert choice.message.content or choice.message.tool_calls


@pytest.mark.parametrize("model", MODELS)
def test_a_result_with_a_picture_goes_back_to_the_model(client: OpenAI, model: str) -> None:
    called = client.chat.completions.create(
        model=model, messages=MESSAGES, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, seed=3
    )
    message: Any = called.choices[0].message
    (call,) = message.tool_calls
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": [PICTURE]}
    answer = client.chat.completions.create(
        model=model, messages=[*MESSAGES, message, result], tools=TOOLS, max_tokens=8, temperature=0
    )
    before: Any = called.usage
    behind: Any = answer.usage
    assert behind.prompt_tokens > before.prompt_tokens
    assert behind.prompt_tokens_details.image_tokens == 2 * before.prompt_tokens_details.image_tokens > 0


def test_a_schema_that_cannot_be_met_is_refused_by_name(client: OpenAI) -> None:
    impossible: Any = [
        {"type": "function", "function": {"name": "look", "strict": True, "parameters": {"type": "object", "not": {}}}}
    ]
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model="demo", messages=MESSAGES, tools=impossible, tool_choice="required")
    assert refusal.value.param == "tools"
