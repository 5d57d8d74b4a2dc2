"""What a client may do to the daemon: leave early, send what cannot be served, ask for too much."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.e2e.goldens import LEAN
from tests.e2e.served import Daemon, serve
from tests.fakes.ports import free_port

MODEL = "internvl2_5-qwen2"
CHECKPOINT = LEAN / MODEL / "checkpoint"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    arguments = ["--num-kv-blocks", "600", "--max-num-seqs", "2", "--max-queue", "2", "--max-model-len", "2048"]
    with serve([f"{MODEL}={CHECKPOINT}", *arguments]) as running:
        yield running


def chat(*content: dict, **options: object) -> dict:
    parts = [*content, {"type": "text", "text": "What is this?"}]
    return {"model": MODEL, "messages": [{"role": "user", "content": parts}], "max_tokens": 4, **options}


def image(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


def video(url: str) -> dict:
    return {"type": "video_url", "video_url": {"url": url}}


async def test_leaving_a_stream_frees_its_pages(daemon: Daemon):
    request = chat(max_tokens=1500, ignore_eos=True, stream=True)
    async with httpx.AsyncClient(base_url=daemon.url, timeout=60) as client:
        async with client.stream("POST", "/v1/chat/completions", json=request) as reply:
            lines = reply.aiter_lines()
            while not (await anext(lines)).startswith("data: "):
                pass
    daemon.wait_until_idle()


async def test_more_requests_than_seats_and_queue_get_429_at_once(daemon: Daemon):
    async with httpx.AsyncClient(base_url=daemon.url, timeout=60) as client:
        request = chat(max_tokens=300, ignore_eos=True)
        replies = await asyncio.gather(*(client.post("/v1/chat/completions", json=request) for _ in range(20)))
    codes = [reply.status_code for reply in replies]
    assert set(codes) == {200, 429}
    refused = next(reply for reply in replies if reply.status_code == 429)
    assert float(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "queue_full"
    daemon.wait_until_idle()


@pytest.mark.parametrize(
    ("request_body", "status", "code", "param"),
    [
        ({**chat(), "model": "nobody"}, 404, "model_not_found", "model"),
        (
            {"model": MODEL, "messages": [{"role": "user", "content": "word " * 3000}]},
            400,
            "context_length_exceeded",
            "messages",
        ),
        (chat(image("data:image/png;base64,AAAA")), 400, "invalid_image_format", "messages.0.content.0.image_url.url"),
        (chat(image("data:image/png;base64,%%%")), 400, "invalid_base64_image", "messages.0.content.0.image_url.url"),
        (chat(image("http://127.0.0.1:1/x.png")), 400, "invalid_image_url", "messages.0.content.0.image_url.url"),
        (chat(image("file:///etc/passwd")), 400, "invalid_image_url", "messages.0.content.0.image_url.url"),
        (chat(video("data:video/mp4;base64,AAAA")), 400, "invalid_video_format", "messages.0.content.0.video_url.url"),
        (
            chat(mm_processor_kwargs={"max_dynamic_patch": 99}),
            200,
            None,
            None,
        ),
        (chat(logit_bias={"999999": 1.0}), 400, "invalid_value", "logit_bias"),
        (chat(mm_processor_kwargs={"hd_num": 3}), 400, "unknown_parameter", "mm_processor_kwargs.hd_num"),
    ],
)
def test_what_cannot_be_served_says_which_field_and_why(daemon: Daemon, request_body, status, code, param):
    reply = httpx.post(f"{daemon.base_url}/chat/completions", json=request_body, timeout=60)
    assert reply.status_code == status, reply.text
    if status != 200:
        error = reply.json()["error"]
        assert (error["code"], error["param"]) == (code, param)
        assert len(error["message"]) > 10
        assert "Traceback" not in reply.text


def test_too_many_tiles_are_refused_where_there_is_a_picture(daemon: Daemon):
    url = "data:image/png;base64," + SMALL_PNG
    asked = chat(image(url), mm_processor_kwargs={"max_dynamic_patch": 99})
    reply = httpx.post(f"{daemon.base_url}/chat/completions", json=asked, timeout=60)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "mm_processor_kwargs.max_dynamic_patch"


def test_a_failure_after_the_start_of_nothing_is_a_plain_error_also_for_streams(daemon: Daemon):
    with pytest.raises(openai.BadRequestError) as caught:
        daemon.client().chat.completions.create(**chat(image("data:image/png;base64,AAAA"), stream=True))
    assert caught.value.code == "invalid_image_format"


def test_several_choices_are_those_of_their_own_seeds(daemon: Daemon):
    request = chat(max_tokens=12, n=3, seed=5, temperature=1, return_token_ids=True)
    first, second = (httpx.post(f"{daemon.base_url}/chat/completions", json=request).json() for _ in range(2))
    ids = [choice["token_ids"] for choice in first["choices"]]
    assert ids == [choice["token_ids"] for choice in second["choices"]]
    assert len({tuple(choice) for choice in ids}) == 3
    assert first["usage"]["completion_tokens"] == sum(len(choice) for choice in ids)


def test_a_stop_string_ends_the_text_before_it(daemon: Daemon):
    whole = httpx.post(f"{daemon.base_url}/chat/completions", json=chat(max_tokens=40, temperature=0)).json()
    text = whole["choices"][0]["message"]["content"]
    stop = text[10:14]
    request = chat(max_tokens=40, temperature=0, stop=[stop])
    cut = httpx.post(f"{daemon.base_url}/chat/completions", json=request).json()["choices"][0]
    assert cut["finish_reason"] == "stop"
    assert cut["message"]["content"] == text[: text.index(stop)].rstrip()
    with httpx.stream("POST", f"{daemon.base_url}/chat/completions", json={**request, "stream": True}) as reply:
        chunks = [json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: {")]
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks) == cut["message"]["content"]


def test_a_model_that_cannot_be_loaded_ends_serve_with_one_line(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"architectures": ["NobodyKnowsIt"]}')
    command = [sys.executable, "-m", "server.cli", "serve", str(tmp_path), "--port", str(free_port())]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "NobodyKnowsIt" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_sigterm_ends_with_exit_code_0():
    with serve([f"{MODEL}={CHECKPOINT}", "--num-kv-blocks", "50"]) as running:
        assert running.stop() == 0


SMALL_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEklEQVR4nGP4z8CAFWEXHbQSACj/P8Fu7N9hAAAAAElFTkSuQmCC"
