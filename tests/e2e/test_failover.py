"""A worker is killed while it answers: the client's stream is the one that an undisturbed run gives."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.goldens import LEAN
from tests.e2e.served import Daemon, serve

MODEL = "internvl2_5-qwen2"
TOKENS = 250
KILL_AFTER = 40


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    checkpoint = LEAN / MODEL / "checkpoint"
    with serve([f"{MODEL}={checkpoint}", "--workers-per-model", "2", "--num-kv-blocks", "600"]) as running:
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
            assert "error" not in chunk, chunk
            self.usage = chunk.get("usage") or self.usage
            for choice in chunk["choices"]:
                self.text += choice["delta"].get("content") or ""
                self.token_ids += choice.get("token_ids") or []
                self.logprobs += [entry["logprob"] for entry in (choice.get("logprobs") or {}).get("content") or []]
                self.finish_reason = choice["finish_reason"] or self.finish_reason


async def run(daemon: Daemon, count: int, kill: bool) -> list[Stream]:
    streams = [Stream() for _ in range(count)]
    async with httpx.AsyncClient(base_url=daemon.url, timeout=60) as client:
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
    deadline = asyncio.get_running_loop().time() + 30
    while len(daemon.workers()) < 2:
        assert asyncio.get_running_loop().time() < deadline, f"one worker is missing: {daemon.workers()}"
        await asyncio.sleep(0.1)
    return {worker["pid"] for worker in daemon.workers()}


@pytest.mark.timeout(180)
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
    deadline = asyncio.get_running_loop().time() + 30
    while not (busy := [worker["pid"] for worker in daemon.workers() if worker["running"]]):
        assert asyncio.get_running_loop().time() < deadline, f"nobody runs anything: {daemon.workers()}"
        await asyncio.sleep(0.02)
    return busy[0]


@pytest.mark.timeout(120)
async def test_a_stream_survives_when_no_worker_of_its_model_is_left(daemon: Daemon):
    """The idle one dies first, then the one that answers: the job waits until one is back."""
    pids = await both_workers(daemon)
    request = {**body(0), "max_tokens": 1500}
    expected, stream, is_running = Stream(), Stream(), asyncio.Event()
    async with httpx.AsyncClient(base_url=daemon.url, timeout=90) as client:
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
