"""A worker is killed while it answers: the client's stream is the one that an undisturbed run gives."""

import asyncio
import io
import json
import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.e2e.goldens import LEAN
from tests.e2e.served import Daemon, serve

MODEL = "internvl2_5-qwen2"
TOKENS = 250
KILL_AFTER = 40
PATIENCE_S = 120


class Origin:
    """A web server that gives the same picture at every address, until it is told to give another one."""

    def __init__(self) -> None:
        origin = self
        self.picture = picture("red")

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "image/png")
                self.send_header("Content-Length", str(len(origin.picture)))
                self.end_headers()
                self.wfile.write(origin.picture)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.host = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Origin":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def picture(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


@pytest.fixture(scope="module")
def daemon(origin: Origin) -> Iterator[Daemon]:
    checkpoint = LEAN / MODEL / "checkpoint"
    arguments = ["--workers-per-model", "2", "--num-kv-blocks", "600", "--allow-private-media-hosts", origin.host]
    with serve([f"{MODEL}={checkpoint}", *arguments]) as running:
        yield running


def body(number: int) -> dict[str, Any]:
    """Greedy, seeded, penalised and stop-string requests in turn; every second one is sampled."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"Request {number}: tell me a long story."}],
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
        "logprobs": True,
        "temperature": number % 2,
        "seed": number,
        "frequency_penalty": 0.5 if number % 3 == 0 else 0,
        "stop": ["zzzz-not-there"],
        "stream_options": {"include_usage": True},
    }


class Stream:
    """One client's view of a stream, as it comes in."""

    def __init__(self) -> None:
        self.text = ""
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] | None = None
        self.is_done = False
        self.error: dict[str, Any] | None = None

    async def read(self, client: httpx.AsyncClient, request: dict[str, Any], on_token: asyncio.Event | None) -> None:
        async with client.stream("POST", "/v1/chat/completions", json=request) as reply:
            assert reply.status_code == 200
            async for line in reply.aiter_lines():
                self._take(line)
                if on_token is not None and len(self.token_ids) >= KILL_AFTER:
                    on_token.set()

    def _take(self, line: str) -> None:
        if line == "data: [DONE]":
            self.is_done = True
        elif line.startswith("data: "):
            chunk = json.loads(line[6:])
            if "error" in chunk:
                self.error = chunk["error"]
                return
            self.usage = chunk.get("usage") or self.usage
            for choice in chunk["choices"]:
                self.text += choice["delta"].get("content") or ""
                self.token_ids += choice.get("token_ids") or []
                self.logprobs += [entry["logprob"] for entry in (choice.get("logprobs") or {}).get("content") or []]
                self.finish_reason = choice["finish_reason"] or self.finish_reason


async def run(daemon: Daemon, count: int, kill: bool) -> list[Stream]:
    streams = [Stream() for _ in range(count)]
    async with httpx.AsyncClient(base_url=daemon.url, timeout=PATIENCE_S) as client:
        is_running = asyncio.Event()
        tasks = [
            asyncio.create_task(stream.read(client, body(number), is_running)) for number, stream in enumerate(streams)
        ]
        if kill:
            await is_running.wait()
            os.kill(daemon.workers()[0]["pid"], signal.SIGKILL)
        await asyncio.gather(*tasks)
    return streams


async def both_workers(daemon: Daemon) -> set[int]:
    """The pids of the two workers, once both are there."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while len(daemon.workers()) < 2:
        assert asyncio.get_running_loop().time() < deadline, f"one worker is missing: {daemon.workers()}"
        await asyncio.sleep(0.1)
    return {worker["pid"] for worker in daemon.workers()}


@pytest.mark.timeout(300)
async def test_streams_go_on_exactly_when_a_worker_is_killed(daemon: Daemon):
    pids = await both_workers(daemon)
    undisturbed = await run(daemon, 8, kill=False)
    disturbed = await run(daemon, 8, kill=True)
    for expected, got in zip(undisturbed, disturbed, strict=True):
        assert got.is_done
        assert got.token_ids == expected.token_ids
        assert len(got.token_ids) == TOKENS
        assert got.text == expected.text
        assert got.logprobs == pytest.approx(expected.logprobs, abs=1e-3)
        assert (got.finish_reason, got.usage["completion_tokens"]) == ("length", TOKENS)
    assert len(pids & await both_workers(daemon)) == 1
    daemon.wait_until_idle()


async def busy_worker(daemon: Daemon) -> int:
    """The pid of the worker that runs something, once a heartbeat says so."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while not (busy := [worker["pid"] for worker in daemon.workers() if worker["running"]]):
        assert asyncio.get_running_loop().time() < deadline, f"nobody runs anything: {daemon.workers()}"
        await asyncio.sleep(0.02)
    return busy[0]


@pytest.mark.timeout(300)
async def test_a_stream_survives_when_no_worker_of_its_model_is_left(daemon: Daemon):
    """The idle one dies first, then the one that answers: the job waits until one is back."""
    pids = await both_workers(daemon)
    request = {**body(0), "max_tokens": 1500}
    expected, stream, is_running = Stream(), Stream(), asyncio.Event()
    async with httpx.AsyncClient(base_url=daemon.url, timeout=PATIENCE_S) as client:
        await expected.read(client, request, None)
        task = asyncio.create_task(stream.read(client, request, is_running))
        await is_running.wait()
        busy = await busy_worker(daemon)
        [idle] = pids - {busy}
        os.kill(idle, signal.SIGKILL)
        while idle in {worker["pid"] for worker in daemon.workers()}:
            await asyncio.sleep(0.01)
        os.kill(busy, signal.SIGKILL)
        await task
    assert stream.token_ids == expected.token_ids
    assert stream.text == expected.text


def looking(origin: Origin) -> dict[str, Any]:
    parts = [
        {"type": "image_url", "image_url": {"url": f"http://{origin.host}/picture.png"}},
        {"type": "text", "text": "Tell me all that you see."},
    ]
    return {**body(1), "max_tokens": 1500, "messages": [{"role": "user", "content": parts}]}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("has_changed", [False, True])
async def test_a_picture_that_changes_before_the_answer_is_taken_over_ends_it(
    daemon: Daemon, origin: Origin, has_changed: bool
):
    await both_workers(daemon)
    expected, stream, is_running = Stream(), Stream(), asyncio.Event()
    async with httpx.AsyncClient(base_url=daemon.url, timeout=PATIENCE_S) as client:
        await expected.read(client, looking(origin), None)
        task = asyncio.create_task(stream.read(client, looking(origin), is_running))
        await is_running.wait()
        if has_changed:
            origin.picture = picture("blue")
        os.kill(await busy_worker(daemon), signal.SIGKILL)
        await task
    assert expected.is_done and len(expected.token_ids) == 1500
    if has_changed:
        assert stream.error is not None
        assert (stream.error["code"], stream.error["param"]) == ("media_changed", "messages.0.content.0.image_url.url")
        assert 0 < len(stream.token_ids) < 1500
        assert stream.token_ids == expected.token_ids[: len(stream.token_ids)]
    else:
        assert stream.error is None and stream.is_done
        assert stream.token_ids == expected.token_ids
