"""What the authors' own code computed, over HTTP: every case of every family, under each way the engine may run it."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.e2e.goldens import NAMES, ROOT, Golden, compare, group_models, load_goldens, tight_pages
from tests.e2e.served import Daemon, serve

GOLDENS = load_goldens()
GROUPS = group_models(GOLDENS, 6)
WAYS = {
    "as-is": ["--num-kv-blocks", "2000"],
    "chunks-without-prefix-cache": ["--num-kv-blocks", "2000", "--no-prefix-cache"]
    + ["--max-num-batched-tokens", "16", "--max-num-seqs", "8"],
    "preempting": [],
}


@dataclass
class Served:
    """A daemon with the models of one group."""

    daemon: Daemon
    way: str
    models: list[str]

    @property
    def goldens(self) -> list[Golden]:
        return [golden for golden in GOLDENS if golden.model in self.models]


@pytest.fixture(
    scope="module",
    params=[(way, group) for group in GROUPS for way in WAYS],
    ids=lambda param: f"{param[0]}-{param[1][0]}",
)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    way, models = request.param
    flags = WAYS[way] or tight_pages(GOLDENS, models)
    folders = [f"{name}={ROOT / name / 'checkpoint'}" for name in models]
    with serve([*folders, *flags, "--max-model-len", "4096", "--log-level", "error"]) as daemon:
        yield Served(daemon, way, models)


def check(golden: Golden, answer: dict[str, Any]) -> None:
    """Prompt ids, greedy ids and text are equal; logprobs are within the tolerance."""
    found = compare(golden, answer)
    assert found.is_exact, found


async def ask(client: httpx.AsyncClient, golden: Golden, priority: int = 0) -> dict[str, Any]:
    body = {"model": golden.model, "priority": priority, **golden.body}
    reply = await client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.timeout(300)
async def test_every_case_alone(served: Served):
    async with httpx.AsyncClient(base_url=served.daemon.url, timeout=60) as client:
        for golden in served.goldens:
            check(golden, await ask(client, golden))


@pytest.mark.timeout(300)
async def test_every_case_while_others_run(served: Served):
    async with httpx.AsyncClient(base_url=served.daemon.url, timeout=120) as client:
        for model in served.models:
            own = [golden for golden in GOLDENS if golden.model == model]
            mixed = (own * 9)[: max(9, len(own))]
            # Where pages are few, each request takes them from those sent earlier.
            step = -1 if served.way == "preempting" else 0
            answers = await asyncio.gather(*(ask(client, golden, step * i) for i, golden in enumerate(mixed)))
            for golden, answer in zip(mixed, answers, strict=True):
                check(golden, answer)
    served.daemon.wait_until_idle()


async def test_a_repeated_prompt_is_found_in_the_cache_and_gives_the_same(served: Served):
    golden = max(served.goldens, key=lambda g: len(g.prompt_ids) if g.model == served.models[-1] else 0)
    async with httpx.AsyncClient(base_url=served.daemon.url, timeout=60) as client:
        for _ in range(2):
            answer = await ask(client, golden)
            check(golden, answer)
    cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    page_size = 4 if served.way == "preempting" else 16
    is_cached = served.way != "chunks-without-prefix-cache"
    assert cached == ((len(golden.prompt_ids) - 1) // page_size * page_size if is_cached else 0)


def test_the_goldens_are_there():
    assert set(NAMES) - {"internvideo2-chat-hd"} <= {golden.model for golden in GOLDENS}
    assert len(GOLDENS) >= 60
    assert len({str(golden) for golden in GOLDENS}) == len(GOLDENS)
    assert sorted(model for group in GROUPS for model in group) == sorted({golden.model for golden in GOLDENS})
