"""A request that kills the workers it comes to, among others that do nothing: two deaths, one error, and every other
answer whole. Real processes; the engine is scripted, so that the right answer is known."""

import asyncio
import re
from contextlib import AsyncExitStack

import httpx
import pytest

from tests.e2e.scripted import Daemon, running, text_of
from tests.e2e.test_redis import PATIENCE_S, Cluster
from tests.fakes.redis_server import BINARY, redis_server
from tests.fakes.scripted_backend import answer

pytestmark = pytest.mark.timeout(400)
NUM_INNOCENTS = 6
TOKENS = 60
"""At 20 ms each, an answer is under way while its worker dies."""
DIES_IN_ITS_ANSWER, DIES_BEFORE_IT_IS_ACCEPTED = "die", "poison"


async def innocent(gateway: Daemon, prompt: str) -> None:
    """Fails unless the answer is the undisturbed one, each token once."""
    chunks = [chunk async for chunk in gateway.chunks(prompt, max_tokens=TOKENS)]
    assert chunks[-1] == {"done": True}, chunks[-1]
    assert "".join(map(text_of, chunks)) == answer(prompt, 7, TOKENS)


async def guilty(gateway: Daemon, killer: str) -> None:
    chunks = [chunk async for chunk in gateway.chunks(killer, max_tokens=TOKENS)]
    assert chunks[-1]["error"]["code"] == "engine_error"


async def ask_all(innocents: list[Daemon], at: Daemon, killer: str) -> None:
    """Some innocents, the guilty one, the other innocents."""
    async with asyncio.TaskGroup() as clients:
        for number, gateway in enumerate(innocents):
            if number == NUM_INNOCENTS // 2:
                clients.create_task(guilty(at, killer))
            clients.create_task(innocent(gateway, f"innocent {number}"))


async def num_died(gateway: Daemon) -> int:
    """How many workers a gateway saw die."""
    metrics = (await gateway.client.get("/metrics")).text
    counts = re.findall(r'^glimpsed_workers_lost_total\{cause="(\w+)",model="tiny"\} (\S+)$', metrics, re.MULTILINE)
    assert len(counts) == 4
    return sum(int(float(count)) for _, count in counts)


@pytest.mark.parametrize(
    ("killer", "num_workers"),
    [(DIES_IN_ITS_ANSWER, 2), (DIES_BEFORE_IT_IS_ACCEPTED, 1)],
    ids=["in its answer, two workers", "before it is accepted, one worker"],
)
async def test_a_request_that_kills_workers_fails_alone(killer: str, num_workers: int) -> None:
    async with running("tiny=slow", "--workers-per-model", str(num_workers)) as daemon:
        daemon.client.timeout = httpx.Timeout(PATIENCE_S)
        await ask_all([daemon] * NUM_INNOCENTS, daemon, killer)
        # A process that aborts at once may take its last word, that it has the job, with it.
        most = 2 if killer == DIES_IN_ITS_ANSWER else 4
        assert 2 <= await num_died(daemon) <= most


@pytest.mark.redis
@pytest.mark.skipif(not BINARY, reason="there is no redis-server and no valkey-server on this machine")
async def test_a_request_of_one_gateway_that_kills_workers_fails_no_other_gateways() -> None:
    """Three workers without a supervisor: the last one ends all answers."""
    with redis_server() as server:
        async with AsyncExitStack() as stack:
            both = Cluster(server.url, stack)
            await both.start()
            await both.add_worker()
            for gateway in both.gateways:
                gateway.client.timeout = httpx.Timeout(PATIENCE_S)
            await ask_all(both.gateways * (NUM_INNOCENTS // 2), both.gateways[0], DIES_IN_ITS_ANSWER)
            ended = [worker for worker in both.workers if worker.returncode is not None]
            assert len(ended) == 2
            async with asyncio.timeout(PATIENCE_S):
                while await num_died(both.gateways[1]) != 2:
                    await asyncio.sleep(0.05)


@pytest.mark.redis
@pytest.mark.skipif(not BINARY, reason="there is no redis-server and no valkey-server on this machine")
async def test_over_redis_a_supervised_workers_last_words_are_heard_before_it_is_buried() -> None:
    with redis_server() as server:
        async with running("tiny=slow", "--queue", server.url) as daemon:
            daemon.client.timeout = httpx.Timeout(PATIENCE_S)
            await ask_all([daemon] * NUM_INNOCENTS, daemon, DIES_BEFORE_IT_IS_ACCEPTED)
            assert await num_died(daemon) == 2
