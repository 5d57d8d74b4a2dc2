"""What the authors' own code computed, over HTTP: every case of every family, under each way the engine may run it."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import torch

from tests.e2e.goldens import NAMES, ROOT, Golden, load_goldens
from tests.e2e.served import Daemon, serve

GOLDENS = load_goldens()
MODELS = [name for name in NAMES if any(golden.model == name for golden in GOLDENS)]
LOGPROB_TOLERANCE = 1e-3


WAYS = {
    "as-is": ["--num-kv-blocks", "2000"],
    "no-prefix-cache": ["--num-kv-blocks", "2000", "--no-prefix-cache"],
    "chunks-of-16": ["--num-kv-blocks", "2000", "--max-num-batched-tokens", "16", "--max-num-seqs", "8"],
    # Room for the longest case and little more: with nine at a time they keep taking pages from each other.
    "preempting": ["--num-kv-blocks", "30", "--block-size", "16"],
}


@pytest.fixture(scope="module", params=WAYS)
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    models = [f"{name}={ROOT / name / 'checkpoint'}" for name in MODELS]
    with serve([*models, *WAYS[request.param], "--max-model-len", "4096", "--log-level", "warning"]) as running:
        yield running


def check(golden: Golden, answer: dict[str, Any]) -> None:
    """Prompt ids, greedy ids and text are equal; logprobs are within the tolerance."""
    choice = answer["choices"][0]
    assert answer["prompt_token_ids"] == golden.prompt_ids
    assert choice["token_ids"] == golden.greedy_ids
    if golden.greedy_text is not None:
        assert choice["message"]["content"] == golden.greedy_text
    expected = torch.log_softmax(golden.step_logits.double(), dim=-1)
    told = choice["logprobs"]["content"]
    assert len(told) == len(golden.greedy_ids) == len(expected)
    for step, (token_id, logprobs) in enumerate(zip(golden.greedy_ids, told, strict=True)):
        assert logprobs["logprob"] == pytest.approx(expected[step, token_id].item(), abs=LOGPROB_TOLERANCE)
        top = [entry["logprob"] for entry in logprobs["top_logprobs"]]
        assert top == pytest.approx(expected[step].topk(5).values.tolist(), abs=LOGPROB_TOLERANCE)


async def ask(client: httpx.AsyncClient, golden: Golden) -> dict[str, Any]:
    reply = await client.post("/v1/chat/completions", json={"model": golden.model, **golden.body})
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.timeout(300)
async def test_every_case_alone(daemon: Daemon):
    async with httpx.AsyncClient(base_url=daemon.url, timeout=60) as client:
        for golden in GOLDENS:
            check(golden, await ask(client, golden))


@pytest.mark.timeout(300)
async def test_every_case_while_others_run(daemon: Daemon):
    async with httpx.AsyncClient(base_url=daemon.url, timeout=120) as client:
        for model in MODELS:
            own = [golden for golden in GOLDENS if golden.model == model]
            mixed = (own * 9)[: max(9, len(own))]
            answers = await asyncio.gather(*(ask(client, golden) for golden in mixed))
            for golden, answer in zip(mixed, answers, strict=True):
                check(golden, answer)
    daemon.wait_until_idle()


async def test_a_repeated_prompt_is_found_in_the_cache_and_gives_the_same(
    daemon: Daemon, request: pytest.FixtureRequest
):
    golden = max(GOLDENS, key=lambda g: len(g.prompt_ids) if g.model == "internvl2_5-qwen2" else 0)
    async with httpx.AsyncClient(base_url=daemon.url, timeout=60) as client:
        for _ in range(2):
            answer = await ask(client, golden)
            check(golden, answer)
    cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    if request.node.callspec.params["daemon"] == "no-prefix-cache":
        assert cached == 0
    else:
        assert cached == (len(golden.prompt_ids) - 1) // 16 * 16


def test_the_goldens_are_there():
    assert {"internvl2-internlm2", "internvl2-internlm2-longrope", "internvl2_5-qwen2", "internvl2-qwen2"} <= set(
        MODELS
    )
    assert len(GOLDENS) >= 20
    assert len({str(golden) for golden in GOLDENS}) == len(GOLDENS)
