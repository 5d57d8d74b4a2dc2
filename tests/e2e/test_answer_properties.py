"""What holds for every answer, whatever was asked: the stream, the whole answer and the decoded ids say the same,
counts add up, log probabilities are some. Gateway and worker are real; only the queue between them is in memory."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.goldens import LEAN
from tests.e2e.in_process import Opened, open_checkpoint
from tests.server.serving import chunks_of

pytestmark = pytest.mark.timeout(300)
PIECES = ("a", "e", "s", " ", "\n", " t", "in", "\u00e9", "\ufffd")
REQUESTS = st.fixed_dictionaries(
    {"seed": st.integers(0, 99), "max_tokens": st.integers(1, 24), "n": st.integers(1, 3)},
    optional={
        "temperature": st.sampled_from([0, 0.6, 1, 2]),
        "top_p": st.sampled_from([0.5, 0.95]),
        "stop": st.lists(st.sampled_from(PIECES) | st.text(min_size=1, max_size=3), min_size=1, max_size=4),
        "include_stop_str_in_output": st.booleans(),
        "ignore_eos": st.booleans(),
        "min_tokens": st.integers(0, 8),
        "presence_penalty": st.sampled_from([-2, 0.5, 2]),
        "frequency_penalty": st.sampled_from([-2, 0.5, 2]),
        "repetition_penalty": st.sampled_from([0.5, 1.3]),
        "bad_words": st.lists(st.sampled_from(("a", "e", "the", ".", "\n")), max_size=3),
    },
)


@pytest.fixture(scope="module", params=["internvl2_5-qwen2", "internvl2-internlm2"])
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    with open_checkpoint(LEAN / request.param / "checkpoint") as found:
        yield found


def ask(opened: Opened, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The whole answer to a request, and the chunks of its stream."""
    whole, streamed = opened.post(path, body, body | {"stream": True, "stream_options": {"include_usage": True}})
    assert (whole.status_code, streamed.status_code) == (200, 200), whole.text
    return whole.json(), chunks_of(streamed.text)


def expected_text(opened: Opened, body: dict[str, Any], token_ids: list[int]) -> str:
    """What the ids say, up to the stop string that is complete first."""
    is_ended = token_ids[-1] in opened.stop_ids and not body.get("ignore_eos")
    text = opened.tokenizer.decode(token_ids[:-1] if is_ended else token_ids, skip_special_tokens=True)
    ends = [(text.find(stop) + len(stop), -len(stop)) for stop in body.get("stop", ()) if stop in text]
    if not ends:
        return text
    end, minus_length = min(ends)
    return text[:end] if body.get("include_stop_str_in_output") else text[: end + minus_length]


def pieces_of(chunks: list[dict[str, Any]], index: int) -> list[dict[str, Any]]:
    """The choices of a stream that have this index."""
    return [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]


def check_usage(body: dict[str, Any], whole: dict[str, Any], chunks: list[dict[str, Any]]) -> None:
    usage = whole["usage"]
    generated = [len(choice["token_ids"]) for choice in whole["choices"]]
    assert usage["prompt_tokens"] == len(whole["prompt_token_ids"])
    assert usage["completion_tokens"] == sum(generated)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert len(generated) == body["n"] and all(1 <= count <= body["max_tokens"] for count in generated)
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [chunks[-1]["usage"][name] for name in counts] == [usage[name] for name in counts]


@given(body=REQUESTS, prompt=st.text(min_size=1, max_size=20))
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_completions_say_the_same_in_a_stream_as_a_whole_and_in_ids(
    opened: Opened, body: dict[str, Any], prompt: str
) -> None:
    asked = {"prompt": prompt, "return_token_ids": True, "logprobs": 3, **body}
    whole, chunks = ask(opened, "completions", asked)
    check_usage(asked, whole, chunks)
    for choice in whole["choices"]:
        pieces = pieces_of(chunks, choice["index"])
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        assert choice["text"] == expected_text(opened, body, choice["token_ids"])
        assert [one for piece in pieces for one in piece["token_ids"]] == choice["token_ids"]
        assert pieces[-1]["finish_reason"] == choice["finish_reason"]
        told = choice["logprobs"]
        assert len(told["tokens"]) == len(told["token_logprobs"]) == len(choice["token_ids"])
        assert all(math.exp(value) <= 1 for value in told["token_logprobs"])
        for alternatives in told["top_logprobs"]:
            assert sum(map(math.exp, alternatives.values())) <= 1 + 1e-5


@given(body=REQUESTS, message=st.text(min_size=1, max_size=20))
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_chats_say_the_same_in_a_stream_as_a_whole_and_in_ids(
    opened: Opened, body: dict[str, Any], message: str
) -> None:
    messages = [{"role": "user", "content": message}]
    asked = {"messages": messages, "return_token_ids": True, "logprobs": True, "top_logprobs": 3}
    whole, chunks = ask(opened, "chat/completions", asked | body)
    check_usage(body, whole, chunks)
    for choice in whole["choices"]:
        pieces, content = pieces_of(chunks, choice["index"]), choice["message"]["content"]
        assert "".join(piece["delta"].get("content") or "" for piece in pieces) == content
        assert content == expected_text(opened, body, choice["token_ids"]).strip()
        assert [one for piece in pieces for one in piece.get("token_ids", ())] == choice["token_ids"]
        assert pieces[-1]["finish_reason"] == choice["finish_reason"]
        told = choice["logprobs"]["content"]
        assert len(told) == len(choice["token_ids"])
        for token in told:
            top = [one["logprob"] for one in token["top_logprobs"]]
            assert math.exp(token["logprob"]) <= 1 and token["logprob"] <= top[0]
            assert top == sorted(top, reverse=True)
            assert sum(map(math.exp, top)) <= 1 + 1e-5
