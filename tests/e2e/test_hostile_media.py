"""Hostile media against a running daemon, by every endpoint that takes media.

An endpoint that is new must be named here: with the body that carries a medium, or as one that takes none.
"""

import asyncio
import gc
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil
import pytest
from fastapi.routing import APIRoute

from server.app import create_app
from server.errors import is_anthropic
from tests.e2e.goldens import LEAN
from tests.e2e.hostile_media import Case, cases, good_picture
from tests.e2e.served import Daemon, serve
from tests.fakes.memory_queue import MemoryQueue, tell
from tests.workers.media.origin import Canary

MODEL = "internvl2_5-qwen2"
LEAKS = re.compile(r"0x[0-9a-f]{6,}|Traceback|/etc/|/usr/|Errno|BytesIO|127\.0\.0\.1")
SETTLED_S = 10.0
SETTLED_MIB = 16

Body = Callable[[dict[str, Any]], dict[str, Any]]


def chat(part: dict[str, Any]) -> dict[str, Any]:
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "What is this?"}]}]
    video = {"num_frames": 2}
    return {"model": MODEL, "messages": messages, "max_tokens": 2, "media_io_kwargs": {"video": video}}


def tokenize(content: dict[str, object]) -> dict[str, object]:
    return {"model": MODEL, "messages": [{"role": "user", "content": [content]}]}


def responses(content: dict[str, Any]) -> dict[str, Any]:
    kind = content["type"].removesuffix("_url")
    one = {"type": f"input_{kind}"} | ({"text": content["text"]} if kind == "text" else {f"{kind}_url": _url(content)})
    item = {"role": "user", "content": [one, {"type": "input_text", "text": "What is this?"}]}
    label = {"type": "message", "id": content["uuid"]} if "uuid" in content else {}
    video = {"num_frames": 2}
    return {"model": MODEL, "input": [item | label], "max_output_tokens": 2, "media_io_kwargs": {"video": video}}


def counted_input(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in responses(content).items() if name != "max_output_tokens"}


def counted(content: dict[str, Any]) -> dict[str, Any]:
    kind = content["type"].removesuffix("_url")
    source = {} if kind == "text" else {"source": {"type": "url", "url": _url(content)}}
    text = {"text": content["text"]} if kind == "text" else {}
    blocks = [{"type": kind, **source, **text}, {"type": "text", "text": "What is this?"}]
    video = {"num_frames": 2}
    messages = [{"role": "user", "content": blocks}]
    return {"model": MODEL, "messages": messages, "media_io_kwargs": {"video": video}}


def messages(content: dict[str, Any]) -> dict[str, Any]:
    label = {"metadata": {"user_id": content["uuid"]}} if "uuid" in content else {}
    return {**counted(content), "max_tokens": 2, **label}


def _url(content: dict[str, Any]) -> str:
    url: str = content[content["type"]]["url"]
    return url


WITH_MEDIA: dict[str, tuple[Body, str]] = {
    "/v1/responses": (responses, "input.0.content.0.{kind}_url"),
    "/v1/responses/input_tokens": (counted_input, "input.0.content.0.{kind}_url"),
    "/v1/messages": (messages, "messages.0.content.0.source.url"),
    "/v1/messages/count_tokens": (counted, "messages.0.content.0.source.url"),
    "/v1/chat/completions": (chat, "messages.0.content.0.{kind}_url.url"),
    "/v1/tokenize": (tokenize, "messages.0.content.0.{kind}_url.url"),
}
"""Path -> the body round a content part, and what errors name as its place."""
WITHOUT_MEDIA = frozenset(
    {
        "/v1/completions",
        "/v1/detokenize",
        "/v1/files",
        "/v1/batches",
        "/v1/batches/{batch_id}/cancel",
        "/v1/responses/{response_id}/cancel",
    }
)
"""Lines of batches are requests to the endpoints above, which answer them."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with serve([f"{MODEL}={LEAN / MODEL / 'checkpoint'}", "--num-kv-blocks", "600"]) as running:
        yield running


def part(kind: str, url: str) -> dict[str, Any]:
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}


async def test_every_endpoint_is_known_here() -> None:
    posting = set(_posting(create_app(MemoryQueue(tell("hello"))).routes))
    assert posting == set(WITH_MEDIA) | WITHOUT_MEDIA


@pytest.mark.parametrize("path", WITH_MEDIA)
@pytest.mark.timeout(180)
async def test_the_corpus_reaches_nobody_and_leaves_no_memory_behind(daemon: Daemon, path: str) -> None:
    async with Canary() as canary, httpx.AsyncClient(base_url=daemon.url, timeout=60) as client:
        corpus = cases(canary.port)
        (worker,) = daemon.workers()
        parents = [psutil.Process(daemon.process.pid), psutil.Process(worker["pid"])]
        # The first round fills allocators and buffers; what the later ones add would be a leak.
        wrong = [fault for case in corpus if (fault := await _send(client, path, case))]
        assert not wrong, "\n".join(wrong)
        await asyncio.to_thread(daemon.wait_until_idle)
        before = _memory_mib(parents)
        for case in corpus:
            await _send(client, path, case)
        gc.collect()
        assert await _settles(parents, before), (before, _memory_mib(parents))
        assert canary.num_hits == 0
    assert [worker["pid"] for worker in daemon.workers()] == [worker["pid"]]


@pytest.mark.parametrize("path", WITH_MEDIA)
async def test_addresses_in_texts_and_labels_are_not_followed(daemon: Daemon, path: str) -> None:
    body, _ = WITH_MEDIA[path]
    async with Canary() as canary, httpx.AsyncClient(base_url=daemon.url, timeout=60) as client:
        url = f"http://127.0.0.1:{canary.port}/x.png"
        text = f"![]({url}) <img src='{url}'> {url} <img src=file:///etc/passwd>"
        reply = await client.post(path, json=body({"type": "text", "text": text}))
        assert reply.status_code == 200
        labelled = part("image", good_picture()) | {"uuid": url}
        assert (await client.post(path, json=body(labelled))).status_code == 200
        assert canary.num_hits == 0


def test_more_media_than_allowed_are_refused_before_anything_is_fetched(daemon: Daemon) -> None:
    for kind, count in (("image", 17), ("video", 3)):
        parts = [part(kind, good_picture())] * count
        request = {"model": MODEL, "messages": [{"role": "user", "content": parts}]}
        error = httpx.post(f"{daemon.base_url}/chat/completions", json=request).json()["error"]
        assert (error["code"], error["param"]) == (
            f"too_many_{kind}s",
            f"messages.0.content.{count - 1}.{kind}_url.url",
        )


def test_what_was_refused_is_counted(daemon: Daemon) -> None:
    body, _ = WITH_MEDIA["/v1/chat/completions"]
    name = "glimpsed_worker_media_rejected_url_total"
    before = _metric(daemon, name)
    httpx.post(f"{daemon.base_url}/chat/completions", json=body(part("image", "http://127.0.0.1/")))
    daemon.wait_until_idle()
    assert _metric(daemon, name) == before + 1


async def _send(client: httpx.AsyncClient, path: str, case: Case) -> str:
    """What is wrong with the answer; nothing, if nothing is."""
    body, param = WITH_MEDIA[path]
    reply = await client.post(path, json=body(part(case.kind, case.url)))
    alive = await client.get("/livez")
    if alive.status_code != 200:
        return f"{case.name}: the server is not alive"
    if reply.status_code == 200 and "" in case.codes:
        return ""
    error = reply.json().get("error", {})
    is_right = reply.status_code == 400 and not LEAKS.search(error["message"])
    if is_anthropic(path):  # whose errors have neither codes nor places of their own
        is_right = is_right and param in error["message"]
    else:
        is_right = is_right and error["code"] in case.codes and error["param"] == param.format(kind=case.kind)
    return "" if is_right else f"{case.name}: {reply.status_code} {reply.text[:200]}"


async def _settles(processes: list[psutil.Process], before: list[float]) -> bool:
    deadline = asyncio.get_running_loop().time() + SETTLED_S
    while asyncio.get_running_loop().time() < deadline:
        grown = [now - then for now, then in zip(_memory_mib(processes), before, strict=True)]
        if max(grown) <= SETTLED_MIB:
            return True
        await asyncio.sleep(0.2)
    return False


def _memory_mib(processes: list[psutil.Process]) -> list[float]:
    return [process.memory_info().rss / 2**20 for process in processes]


def _posting(routes: list[Any]) -> Iterator[str]:
    for route in routes:
        if isinstance(route, APIRoute) and "POST" in route.methods:
            yield route.path
        elif hasattr(route, "original_router"):
            yield from _posting(route.original_router.routes)


def _metric(daemon: Daemon, name: str) -> float:
    text = httpx.get(f"{daemon.url}/metrics").text
    return sum(float(value) for value in re.findall(rf"^{name}{{.*}} (\S+)$", text, re.MULTILINE))
