"""The Responses and Messages APIs against the daemon and its demo model: what a chat says, in their words."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from anthropic import BadRequestError as AnthropicRefusal
from openai import BadRequestError, OpenAI
from PIL import Image

from tests.e2e.served import Daemon, serve

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PICTURE = base64.b64encode((EXAMPLES / "shapes.png").read_bytes()).decode()
CLIP = base64.b64encode((EXAMPLES / "moving.mp4").read_bytes()).decode()
PNG, MP4 = f"data:image/png;base64,{PICTURE}", f"data:video/mp4;base64,{CLIP}"
MODEL = "glimpsed-demo"
ASKED = "How many shapes are there?"
MAX_TOKENS = 24


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with serve([]) as running:
        yield running


@pytest.fixture
def openai(daemon: Daemon) -> Iterator[OpenAI]:
    with daemon.client() as client:
        yield client


@pytest.fixture
def anthropic(daemon: Daemon) -> Iterator[Anthropic]:
    with Anthropic(base_url=daemon.url, api_key="unused", timeout=120, max_retries=0) as client:
        yield client


def chatted(openai: OpenAI, *messages: Any) -> Any:
    return openai.chat.completions.create(model=MODEL, messages=list(messages), temperature=0, max_tokens=MAX_TOKENS)


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [*parts, {"type": "text", "text": ASKED}]}


def test_responses_say_what_chats_say_of_a_picture_and_a_clip(openai: OpenAI) -> None:
    media = {
        "image_url": ({"type": "input_image", "image_url": PNG, "detail": "auto"}, PNG),
        "video_url": ({"type": "input_file", "file_data": MP4, "filename": "moving.mp4"}, MP4),
    }
    for kind, (part, url) in media.items():
        expected = chatted(openai, user({"type": kind, kind: {"url": url}}))
        items: Any = [{"role": "user", "content": [part, {"type": "input_text", "text": ASKED}]}]
        request: dict[str, Any] = {"model": MODEL, "input": items, "temperature": 0, "max_output_tokens": MAX_TOKENS}
        answer = openai.responses.create(**request)
        assert answer.output_text == expected.choices[0].message.content
        assert answer.usage is not None
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (
            expected.usage.prompt_tokens,
            expected.usage.completion_tokens,
        )
        with openai.responses.stream(**request) as stream:
            assert stream.get_final_response().output_text == answer.output_text


def test_a_conversation_of_responses_is_the_chats(openai: OpenAI) -> None:
    greedy: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_output_tokens": MAX_TOKENS}
    items: Any = [{"role": "user", "content": [{"type": "input_image", "image_url": PNG}]}]
    first = openai.responses.create(input=items, **greedy)
    second = openai.responses.create(input="Where is the green triangle?", previous_response_id=first.id, **greedy)
    expected = chatted(
        openai,
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG}}]},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "Where is the green triangle?"},
    )
    assert second.output_text == expected.choices[0].message.content
    assert second.usage is not None
    assert second.usage.input_tokens == expected.usage.prompt_tokens
    assert second.usage.input_tokens_details.cached_tokens > 0


def test_a_response_keeps_to_its_schema(openai: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    wanted: Any = {"format": {"type": "json_schema", "name": "shape", "schema": schema}}
    answer = openai.responses.create(model=MODEL, input="A colour?", text=wanted, max_output_tokens=64)
    assert json.loads(answer.output_text)["colour"] in ("red", "blue")


def test_messages_say_what_chats_say_of_a_picture_and_a_clip(openai: OpenAI, anthropic: Anthropic) -> None:
    media = {"image": ("image/png", PICTURE, PNG), "video": ("video/mp4", CLIP, MP4)}
    for kind, (media_type, data, url) in media.items():
        expected = chatted(openai, user({"type": f"{kind}_url", f"{kind}_url": {"url": url}}))
        block = {"type": kind, "source": {"type": "base64", "media_type": media_type, "data": data}}
        messages: Any = [user(block)]
        request: dict[str, Any] = {"model": MODEL, "messages": messages, "max_tokens": MAX_TOKENS}
        answer: Any = anthropic.messages.create(**request, extra_body={"temperature": 0})
        assert "".join(block.text for block in answer.content) == expected.choices[0].message.content
        usage = answer.usage
        assert usage.input_tokens + usage.cache_read_input_tokens == expected.usage.prompt_tokens
        assert usage.output_tokens == expected.usage.completion_tokens
        with anthropic.messages.stream(**request, extra_body={"temperature": 0}) as stream:
            assert stream.get_final_text() == expected.choices[0].message.content
        counted = anthropic.messages.count_tokens(model=MODEL, messages=messages)
        assert counted.input_tokens == expected.usage.prompt_tokens


def test_a_large_picture_that_is_handed_on_as_it_came_is_the_one_that_is_read_as_text(
    openai: OpenAI, anthropic: Anthropic
) -> None:
    file = io.BytesIO()
    Image.open(EXAMPLES / "shapes.png").convert("RGB").resize((800, 800)).save(file, "BMP")
    data = base64.b64encode(file.getvalue()).decode()
    url = f"data:image/bmp;base64,{data}"
    expected = chatted(openai, user({"type": "image_url", "image_url": {"url": url}}))
    item: Any = {
        "role": "user",
        "content": [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": ASKED}],
    }
    response = openai.responses.create(model=MODEL, input=[item], temperature=0, max_output_tokens=MAX_TOKENS)
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/bmp", "data": data}}
    messages: Any = [user(block)]
    message: Any = anthropic.messages.create(
        model=MODEL, messages=messages, max_tokens=MAX_TOKENS, extra_body={"temperature": 0}
    )
    assert response.output_text == message.content[0].text == expected.choices[0].message.content
    assert response.usage is not None and response.usage.input_tokens == expected.usage.prompt_tokens
    for at in (0, len(data) // 2, len(data) - 1):
        spoilt = user(
            {
                "type": "image_url",
                "image_url": {"url": url[: at - len(data)] + "!" + url[len(url) - len(data) + at + 1 :]},
            }
        )
        with pytest.raises(BadRequestError) as refused:
            chatted(openai, spoilt)
        assert (refused.value.code, refused.value.param) == (
            "invalid_base64_image",
            "messages.0.content.0.image_url.url",
        )


def test_a_stop_sequence_is_named(openai: OpenAI, anthropic: Anthropic) -> None:
    said = chatted(openai, user({"type": "image_url", "image_url": {"url": PNG}})).choices[0].message.content
    stop = said[len(said) // 2]
    block = {"type": "image", "source": {"type": "url", "url": PNG}}
    answer: Any = anthropic.messages.create(
        model=MODEL,
        messages=[user(block)],  # type: ignore[list-item]
        max_tokens=MAX_TOKENS,
        stop_sequences=["nowhere", stop],
        extra_body={"temperature": 0},
    )
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", stop)
    assert "".join(block.text for block in answer.content).strip() == said[: said.index(stop)].strip()


def test_broken_pictures_are_named_as_the_client_names_them(openai: OpenAI, anthropic: Anthropic) -> None:
    broken = base64.b64encode(base64.b64decode(PICTURE)[:60]).decode()
    items: Any = [
        {"role": "user", "content": [{"type": "input_image", "image_url": f"data:image/png;base64,{broken}"}]}
    ]
    with pytest.raises(BadRequestError) as refusal:
        openai.responses.create(model=MODEL, instructions="Look.", input=items, stream=True)
    assert (refusal.value.code, refusal.value.param) == ("image_parse_error", "input.0.content.0.image_url")
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": broken}}
    with pytest.raises(AnthropicRefusal, match=r"messages\.0\.content\.0\.source\.data"):
        anthropic.messages.create(model=MODEL, max_tokens=4, system="Look.", messages=[user(block)])  # type: ignore[list-item]
