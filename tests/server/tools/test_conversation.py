"""Calls and their answers in the messages of a request."""

from typing import Any

import pytest

from schemas.errors import RequestError
from schemas.jobs import ChatJob, ImagePart, Message, TextPart, Tool, ToolCall, ToolChoice, VideoPart
from schemas.openai.chat import parse_chat_request
from schemas.openai.completion import parse_tokenize_request
from server.submit import JobMaker

QUESTION = {"role": "user", "content": "what?"}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}
VIDEO = {"type": "video_url", "video_url": {"url": "https://example.org/cat.mp4"}}
TOOL = {"type": "function", "function": {"name": "look"}}
MAKER = JobMaker(max_images=2, max_videos=1, timeout_s=60.0)


def calling(*ids: str, **fields: Any) -> dict[str, Any]:
    calls = [{"id": one, "type": "function", "function": {"name": "look", "arguments": "{}"}} for one in ids]
    return {"role": "assistant", "tool_calls": calls, **fields}


def result(call_id: str, content: Any = "a cat") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def job_of(*messages: dict[str, Any], **parameters: Any) -> ChatJob:
    return MAKER.chat_job(parse_chat_request({"model": "demo", "messages": list(messages), **parameters}), "", None)


def test_calls_and_results_reach_the_worker() -> None:
    job = job_of(QUESTION, calling("a", "b", content="Hm."), result("b"), result("a", [IMAGE, VIDEO]), QUESTION)
    assert job.messages[1:4] == (
        Message("assistant", (TextPart("Hm."),), (ToolCall("a", "look", "{}"), ToolCall("b", "look", "{}"))),
        Message("tool", (TextPart("a cat"),), tool_call_id="b"),
        Message(
            "tool",
            (
                ImagePart("https://example.org/cat.png", "messages.3.content.0.image_url.url"),
                VideoPart("https://example.org/cat.mp4", "messages.3.content.1.video_url.url"),
            ),
            tool_call_id="a",
        ),
    )


def test_content_beside_calls_may_be_null_or_missing_and_a_result_empty() -> None:
    job = job_of(QUESTION, calling("a", content=None), result("a", ""), calling("a"), result("a"))
    assert [message.parts for message in job.messages[1:4]] == [(), (TextPart(""),), ()]


def test_tools_and_choice_reach_the_worker_unless_none_may_be_called() -> None:
    job = job_of(QUESTION, tools=[TOOL], tool_choice="required", parallel_tool_calls=False)
    assert (job.tools, job.tool_choice) == ((Tool("look"),), ToolChoice(is_required=True, is_parallel=False))
    assert job_of(QUESTION, tools=[TOOL], tool_choice="none").tools == ()
    assert job_of(QUESTION).tools == ()


def test_tools_count_when_tokens_are_counted() -> None:
    request = parse_tokenize_request({"model": "demo", "messages": [QUESTION], "tools": [TOOL]})
    job = MAKER.tokenize_job(request, "", None)
    assert isinstance(job, ChatJob)
    assert job.tools == (Tool("look"),)


@pytest.mark.parametrize(
    ("messages", "param", "code"),
    [
        ([result("a")], "0.role", "invalid_value"),
        ([QUESTION, result("a")], "1.role", "invalid_value"),
        ([QUESTION, {"role": "assistant", "content": "no"}, result("a")], "2.role", "invalid_value"),
        ([calling("a"), result("b")], "1.tool_call_id", "invalid_value"),
        ([calling("a"), result("a"), result("a")], "2.tool_call_id", "invalid_value"),
        ([calling("a"), result("a"), QUESTION, result("a")], "3.role", "invalid_value"),
        ([QUESTION, calling("a", "b"), result("a")], "1.tool_calls", "invalid_value"),
        ([calling("a"), QUESTION], "0.tool_calls", "invalid_value"),
        ([calling("a"), calling("a"), result("a")], "0.tool_calls", "invalid_value"),
        ([calling("a", "a"), result("a")], "0.tool_calls", "invalid_value"),
        ([{"role": "tool", "content": "x"}], "0.tool_call_id", "missing_required_parameter"),
        ([calling("a"), {"role": "tool", "tool_call_id": "a"}], "1.content", "missing_required_parameter"),
        ([calling("a", role="user", content="x")], "0.tool_calls", "invalid_value"),
        ([{**QUESTION, "tool_call_id": "a"}], "0.tool_call_id", "invalid_value"),
        (
            [{"role": "assistant", "function_call": {"name": "look", "arguments": ""}}],
            "0.function_call",
            "unsupported_parameter",
        ),
        ([calling("a"), result("a", [IMAGE] * 3)], "1.content.2.image_url.url", "too_many_images"),
        ([calling("a", content=[IMAGE]), result("a")], "0.content.0.image_url.url", "invalid_value"),
    ],
)
def test_what_does_not_belong_together_is_refused_by_path(
    messages: list[dict[str, Any]], param: str, code: str
) -> None:
    with pytest.raises(RequestError) as refusal:
        job_of(*messages)
    assert (refusal.value.param, refusal.value.code) == (f"messages.{param}", code)
