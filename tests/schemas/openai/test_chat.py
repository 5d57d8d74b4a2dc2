"""Which chat requests are accepted, and how the others are refused: always with the field and a code."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ErrorCode, RequestError
from schemas.openai.chat import ChatCompletionRequest, parse_chat_request

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}
VIDEO = {"type": "video_url", "video_url": {"url": "https://example.org/cat.mp4"}}


def body(**parameters: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": "hello"}]} | parameters


def with_content(content: Any) -> dict[str, Any]:
    return body(messages=[{"role": "user", "content": content}])


def refusal_of(request: Any) -> RequestError:
    with pytest.raises(RequestError) as refusal:
        parse_chat_request(request)
    return refusal.value


@pytest.mark.parametrize(
    "parameters",
    [
        {"n": 8, "stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
        {"max_tokens": 5, "max_completion_tokens": 5},
        {"temperature": 0, "top_p": 1, "top_k": -1, "min_p": 0.5, "repetition_penalty": 1.1, "min_tokens": 0},
        {"seed": 2**64 - 1, "priority": -5},
        {"seed": -(2**63)},
        {"stop": "END"},
        {"stop": ["a", "b", "c", "d"], "stop_token_ids": [2, 92542]},
        {"logprobs": True, "top_logprobs": 20},
        {"top_logprobs": 0},
        {"logit_bias": {"50256": -100, "0": 1.5}},
        {"metadata": {"a": "b"}, "user": "u", "store": False, "service_tier": "auto", "modalities": ["text"]},
        {"parallel_tool_calls": True, "prompt_cache_key": "k", "safety_identifier": "s", "verbosity": None},
        {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "reasoning_effort": None},
        {"best_of": 1, "num_beams": 1, "use_beam_search": False, "audio": None, "prediction": None},
        {"ignore_eos": True, "skip_special_tokens": False, "return_token_ids": True, "add_generation_prompt": False},
        {"cache_salt": "A-z_09"},
        {"mm_processor_kwargs": {"max_dynamic_patch": 1, "hd_num": 4, "fix_ratio": None, "instruction": "look"}},
        {"mm_processor_kwargs": {"fix_ratio": [2, 1], "padding": False}},
        {"media_io_kwargs": {"video": {"num_frames": 8, "fps": 1, "start": 0, "end": 2}}},
        {"media_io_kwargs": {"image": {"exif_transpose": False}, "video": None}},
        dict.fromkeys(name for name in ChatCompletionRequest.model_fields if name not in ("model", "messages")),
    ],
    ids=lambda parameters: ",".join(parameters)[:60],
)  # fmt: skip
def test_documented_parameters_are_accepted(parameters: dict[str, Any]) -> None:
    assert parse_chat_request(body(**parameters)).model == "demo"


@pytest.mark.parametrize(
    ("parameters", "param", "code"),
    [
        ({"n": 0}, "n", "invalid_value"),
        ({"n": -1}, "n", "invalid_value"),
        ({"n": 9}, "n", "invalid_value"),
        ({"n": 1.5}, "n", "invalid_type"),
        ({"n": 1.0}, "n", "invalid_type"),
        ({"n": "5"}, "n", "invalid_type"),
        ({"n": True}, "n", "invalid_type"),
        ({"n": 10**9}, "n", "invalid_value"),
        ({"n": 2**63}, "n", "invalid_value"),
        ({"n": 2**64}, "n", "invalid_value"),
        ({"n": 10**400}, "n", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": -1}, "max_tokens", "invalid_value"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens", "invalid_value"),
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_p": 1.1}, "top_p", "invalid_value"),
        ({"top_k": -5}, "top_k", "invalid_value"),
        ({"top_k": 2**31}, "top_k", "invalid_value"),
        ({"min_p": 1.5}, "min_p", "invalid_value"),
        ({"presence_penalty": 2.5}, "presence_penalty", "invalid_value"),
        ({"frequency_penalty": -2.5}, "frequency_penalty", "invalid_value"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
        ({"repetition_penalty": 11}, "repetition_penalty", "invalid_value"),
        ({"seed": 2**64}, "seed", "invalid_value"),
        ({"seed": -(2**63) - 1}, "seed", "invalid_value"),
        ({"seed": 1.5}, "seed", "invalid_type"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"stop": ["a"] * 10**5}, "stop", "invalid_value"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"stop": ["a", ""]}, "stop.1", "invalid_value"),
        ({"stop": "x" * 257}, "stop", "invalid_value"),
        ({"stop": 5}, "stop", "invalid_type"),
        ({"stop_token_ids": [-1]}, "stop_token_ids.0", "invalid_value"),
        ({"bad_words": "x"}, "bad_words", "invalid_type"),
        ({"bad_words": ["x"] * 129}, "bad_words", "invalid_value"),
        ({"bad_words": ["a", "x" * 257]}, "bad_words.1", "invalid_value"),
        ({"bad_words": ["a", "  "]}, "bad_words.1", "invalid_value"),
        ({"bad_words": [""]}, "bad_words.0", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_value"),
        ({"logit_bias": {"cat": 1}}, "logit_bias.cat", "invalid_value"),
        ({"logit_bias": {str(i): 0 for i in range(1025)}}, "logit_bias", "invalid_value"),
        ({"logit_bias": []}, "logit_bias", "invalid_type"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
        ({"cache_salt": "a b"}, "cache_salt", "invalid_value"),
        ({"cache_salt": "a\n"}, "cache_salt", "invalid_value"),
        ({"cache_salt": "a" * 65}, "cache_salt", "invalid_value"),
        ({"modalities": ["text", "audio"]}, "modalities", "invalid_value"),
        ({"modalities": ["audio"]}, "modalities.0", "invalid_value"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
        ({"mm_processor_kwargs": {"max_dynamic_patch": 0}}, "mm_processor_kwargs.max_dynamic_patch", "invalid_value"),
        ({"mm_processor_kwargs": {"use_thumbnail": 1}}, "mm_processor_kwargs.use_thumbnail", "invalid_type"),
        ({"media_io_kwargs": {"audio": {}}}, "media_io_kwargs.audio", "unknown_parameter"),
        ({"media_io_kwargs": {"video": {"fps": 0}}}, "media_io_kwargs.video.fps", "invalid_value"),
        ({"media_io_kwargs": {"video": {"backend": "x"}}}, "media_io_kwargs.video.backend", "unknown_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": None}, "messages", "invalid_type"),
        ({"messages": [{"role": "user", "content": "x"}] * 1025}, "messages", "invalid_value"),
        ({"messages": [5]}, "messages.0", "invalid_type"),
        ({"messages": [{"content": "x"}]}, "messages.0.role", "missing_required_parameter"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x", "mood": 1}]}, "messages.0.mood", "unknown_parameter"),
        ({"model": 5}, "model", "invalid_type"),
        ({"model": ""}, "model", "invalid_value"),
        ({"foo": 1}, "foo", "unknown_parameter"),
        ({"__proto__": {}}, "__proto__", "unknown_parameter"),
        ({"trust_remote_code": True}, "trust_remote_code", "unknown_parameter"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_wrong_parameter_is_refused_by_its_path(parameters: dict[str, Any], param: str, code: str) -> None:
    refusal = refusal_of(body(**parameters))
    assert (refusal.param, refusal.code) == (param, code)
    assert param in refusal.message


@pytest.mark.parametrize(
    ("content", "param", "code"),
    [
        ([], "content", "invalid_value"),
        (5, "content", "invalid_type"),
        ({}, "content", "invalid_type"),
        (["x"], "content.0", "invalid_type"),
        ([{"type": "audio", "audio": {}}], "content.0.type", "invalid_value"),
        ([{"text": "x"}], "content.0.type", "invalid_value"),
        ([{"type": "text"}], "content.0.text", "missing_required_parameter"),
        ([{"type": "text", "text": 5}], "content.0.text", "invalid_type"),
        ([{"type": "text", "text": None}], "content.0.text", "invalid_type"),
        ([{"type": "text", "text": "x", "x": 1}], "content.0.x", "unknown_parameter"),
        ([IMAGE, {"type": "image_url"}], "content.1.image_url", "missing_required_parameter"),
        ([{"type": "image_url", "image_url": "http://x"}], "content.0.image_url", "invalid_type"),
        ([{"type": "image_url", "image_url": {}}], "content.0.image_url.url", "missing_required_parameter"),
        ([{"type": "image_url", "image_url": {"url": 5}}], "content.0.image_url.url", "invalid_type"),
        ([{"type": "image_url", "image_url": {"url": ""}}], "content.0.image_url.url", "invalid_value"),
        ([IMAGE | {"image_url": {"url": "x", "detail": 5}}], "content.0.image_url.detail", "invalid_value"),
        ([VIDEO | {"uuid": 5}], "content.0.uuid", "invalid_type"),
        ([IMAGE | {"mm_hash": "x"}], "content.0.mm_hash", "unknown_parameter"),
    ],
    ids=lambda value: str(value)[:50],
)  # fmt: skip
def test_a_wrong_content_part_is_refused_by_its_path(content: Any, param: str, code: str) -> None:
    refusal = refusal_of(with_content(content))
    assert (refusal.param, refusal.code) == (f"messages.0.{param}", code)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("audio", {"voice": "x"}),
        ("functions", [{}]),
        ("prediction", {"type": "content"}),
        ("web_search_options", {"a": 1}),
        ("best_of", 2),
        ("best_of", True),
        ("prompt_embeds", "AAAA"),
        ("chat_template", "{{ 1 }}"),
        ("use_beam_search", True),
        ("num_beams", 9),
        ("store", True),
        ("reasoning_effort", "high"),
        ("allowed_token_ids", [1]),
        ("mm_hashes", ["x"]),
        ("multi_modal_uuids", {"image": ["x"]}),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(name: str, value: Any) -> None:
    refusal = refusal_of(body(**{name: value}))
    assert (refusal.code, refusal.param) == (ErrorCode.UNSUPPORTED_PARAMETER, name)


@pytest.mark.parametrize(
    "name", ["use_beam_search", "num_beams", "length_penalty", "early_stopping", "best_of", "suffix"]
)
def test_what_is_refused_for_a_reason_says_it(name: str) -> None:
    reason = refusal_of(body(**{name: 2})).message.removeprefix(f"Unsupported parameter: '{name}'. ")
    assert reason.endswith(".") and len(reason.split()) > 8


def test_a_missing_field_is_named() -> None:
    refusal = refusal_of({"model": "demo"})
    assert (refusal.code, refusal.param) == (ErrorCode.MISSING_PARAMETER, "messages")


@pytest.mark.parametrize("request_body", [[], "x", None, 5, True])
def test_a_body_that_is_no_object_has_no_field_to_name(request_body: Any) -> None:
    refusal = refusal_of(request_body)
    assert (refusal.code, refusal.param) == (ErrorCode.INVALID_TYPE, None)


def test_a_string_is_one_text_part() -> None:
    message = parse_chat_request(with_content("hello")).messages[0]
    assert message.content is not None
    assert [part.model_dump(exclude_none=True) for part in message.content] == [{"type": "text", "text": "hello"}]


def test_parts_carry_their_urls_and_labels() -> None:
    content = [{"type": "text", "text": "what?"}, IMAGE | {"uuid": "a"}, VIDEO]
    parts = parse_chat_request(with_content(content)).messages[0].content
    assert parts is not None
    assert [part.type for part in parts] == ["text", "image_url", "video_url"]


def test_what_an_sdk_sends_back_of_an_answer_is_accepted() -> None:
    answer = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }
    assert parse_chat_request(body(messages=[answer])).messages[0].content is None


def test_no_message_repeats_a_long_or_hostile_name() -> None:
    refusal = refusal_of(body(**{"evil\r\n\x1b[31m" + "x" * 10_000: 1}))
    assert refusal.message.isprintable()
    assert len(refusal.message) < 200


def test_no_message_repeats_a_value() -> None:
    for request in (body(temperature="SECRET"), with_content([{"type": "SECRET"}]), body(messages="SECRET")):
        assert "SECRET" not in refusal_of(request).message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
fields = st.sampled_from([*ChatCompletionRequest.model_fields, "tools", "response_format", "other"])


@given(st.dictionaries(fields, json_values, max_size=4))
def test_no_body_raises_anything_but_a_refusal(parameters: dict[str, Any]) -> None:
    try:
        assert parse_chat_request(body() | parameters).model
    except RequestError as refusal:
        assert refusal.message
