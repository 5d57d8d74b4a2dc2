"""Bare prompts and token ids against a running daemon, by OpenAI's own client."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.served import Daemon, serve
from tests.e2e.test_requests import CHECKPOINT, MODEL, SMALL_PNG, chat, image

CONTROL = "<|im_start|>user\nWhat is this?<|im_end|>\n"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with serve([f"{MODEL}={CHECKPOINT}", "--num-kv-blocks", "200", "--max-model-len", "512"]) as running:
        yield running


def post(daemon: Daemon, path: str, **request: Any) -> dict[str, Any]:
    reply = httpx.post(f"{daemon.base_url}/{path}", json={"model": MODEL, **request}, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_chats_prompt_ids_are_answered_as_the_chat_is(daemon: Daemon):
    greedy = {"temperature": 0, "max_tokens": 24, "return_token_ids": True}
    request = {"messages": [{"role": "user", "content": "What is this?"}], **greedy}
    chatted = post(daemon, "chat/completions", **request)
    completed = post(daemon, "completions", prompt=chatted["prompt_token_ids"], **greedy)
    assert completed["prompt_token_ids"] == chatted["prompt_token_ids"]
    assert completed["choices"][0]["token_ids"] == chatted["choices"][0]["token_ids"]
    assert completed["choices"][0]["text"].strip() == chatted["choices"][0]["message"]["content"]
    text = post(daemon, "detokenize", tokens=chatted["prompt_token_ids"])["prompt"]
    assert post(daemon, "completions", prompt=text, **greedy)["choices"][0] == completed["choices"][0]


def test_the_sdks_stream_has_the_text_of_its_whole_answer(daemon: Daemon):
    client = daemon.client()
    request: dict[str, Any] = {"model": MODEL, "prompt": ["One", "Two"], "n": 2, "seed": 3, "echo": True}
    whole = client.completions.create(**request)
    texts = [""] * 4
    usage = None
    for chunk in client.completions.create(**request, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]
    assert [text[:3] for text in texts] == ["One", "One", "Two", "Two"]
    assert whole.usage is not None and usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens <= 4 * 16


def test_log_probabilities_name_the_greedy_tokens(daemon: Daemon):
    answer = daemon.client().completions.create(model=MODEL, prompt="One", temperature=0, max_tokens=5, logprobs=2)
    found = answer.choices[0].logprobs
    assert found is not None and found.tokens and found.token_logprobs and found.top_logprobs and found.text_offset
    assert len(found.tokens) == len(found.text_offset) == 5
    for token, logprob, top in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
        assert top[token] == logprob == max(top.values()) <= 0
    assert found.text_offset[1] == len(found.tokens[0])


def test_tokens_and_text_are_turned_into_each_other(daemon: Daemon):
    found = post(daemon, "tokenize", prompt=CONTROL, return_token_strs=True)
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["token_strs"][0] == "<|im_start|>"
    assert found["max_model_len"] == 512
    assert post(daemon, "detokenize", tokens=found["tokens"]) == {"prompt": CONTROL}


def test_a_conversation_with_a_picture_is_counted_as_the_chat_counts_it(daemon: Daemon):
    request = chat(image("data:image/png;base64," + SMALL_PNG), max_tokens=1, return_token_ids=True)
    chatted = post(daemon, "chat/completions", **request)
    found = post(daemon, "tokenize", messages=request["messages"])
    assert found["tokens"] == chatted["prompt_token_ids"]
    assert found["count"] == chatted["usage"]["prompt_tokens"]
    assert found["image_tokens"] == chatted["usage"]["prompt_tokens_details"]["image_tokens"] > 0


def test_a_prompt_beyond_the_context_is_counted_and_not_served(daemon: Daemon):
    ids = [5] * 600
    text = post(daemon, "detokenize", tokens=ids)["prompt"]
    assert post(daemon, "tokenize", prompt=text)["count"] > 0
    with pytest.raises(openai.BadRequestError) as caught:
        daemon.client().completions.create(model=MODEL, prompt=ids)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


@pytest.mark.parametrize(
    ("path", "request_body", "param"),
    [
        ("completions", {"prompt": [2**31 - 1]}, "prompt"),
        ("completions", {"prompt": ""}, "prompt"),
        ("completions", {"prompt": ["x", [10**6]], "stream": True}, "prompt"),
        ("detokenize", {"tokens": [10**6]}, "tokens"),
    ],
)
def test_ids_out_of_the_vocabulary_and_empty_prompts_are_bad_requests(daemon: Daemon, path, request_body, param):
    reply = httpx.post(f"{daemon.base_url}/{path}", json={"model": MODEL, **request_body}, timeout=60)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text
    daemon.wait_until_idle()
