"""An engine that fails in the middle of answers: a request's own fault ends that one, a device's moves all to another
worker, where each goes on exactly."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.goldens import LEAN
from tests.e2e.served import Daemon, serve
from tests.e2e.test_failover import TOKENS, Stream, body, both_workers
from tests.fakes.faulty_worker import FAULTS, KINDS, SEED_OF_A_BUG, SEED_OF_POISON

MODEL = "internvl2_5-qwen2"
NUM_STREAMS = 6
WATCHDOG_S = 8
"""Long for a step of a tiny model, also where other programs have the cores."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faults that are to happen lie here."""
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def daemon(folder: Path) -> Iterator[Daemon]:
    checkpoint = LEAN / MODEL / "checkpoint"
    arguments = [f"{MODEL}={checkpoint}", "--workers-per-model", "2", "--num-kv-blocks", "600"]
    arguments += ["--watchdog-timeout", str(WATCHDOG_S)]
    with serve(arguments, {FAULTS: str(folder)}, module="tests.fakes.faulty_daemon") as running:
        yield running


async def read_all(client: httpx.AsyncClient) -> list[Stream]:
    streams = [Stream() for _ in range(NUM_STREAMS)]
    await asyncio.gather(*(stream.read(client, body(number), None) for number, stream in enumerate(streams)))
    return streams


async def fails(client: httpx.AsyncClient, seed: int) -> dict[str, Any]:
    """The error with which a request of this seed ends."""
    request = {**body(0), "seed": seed, "temperature": 1, "stream": False, "stream_options": None}
    reply = await client.post("/v1/chat/completions", json=request)
    assert reply.status_code == 500
    return reply.json()["error"]


@pytest.mark.timeout(600)
async def test_faults_end_whom_they_must_and_change_nobody_elses_answer(daemon: Daemon, folder: Path) -> None:
    async with httpx.AsyncClient(base_url=daemon.url, timeout=300) as client:
        pids = await both_workers(daemon)
        undisturbed = await read_all(client)

        # A bug that one request meets: an error for it, and nothing for the others to see.
        error, streams = await asyncio.gather(fails(client, SEED_OF_A_BUG), read_all(client))
        assert error["code"] == "engine_error" and "bug" not in error["message"]
        check(streams, undisturbed)
        assert await both_workers(daemon) == pids

        # A device that fails: its worker is replaced, and every answer goes on at the other one.
        for kind in KINDS:
            (folder / kind).touch()
            check(await read_all(client), undisturbed)
            assert not (folder / kind).exists()
            now = await both_workers(daemon)
            assert len(pids & now) == 1
            pids = now

        metrics = (await client.get("/metrics")).text
        assert f'glimpsed_workers_lost_total{{cause="hung",model="{MODEL}"}} 1.0' in metrics.splitlines()

        # A request that breaks every device is not tried for ever.
        assert (await fails(client, SEED_OF_POISON))["code"] == "engine_error"
        assert not pids & await both_workers(daemon)
        check(await read_all(client), undisturbed)
    daemon.wait_until_idle()


def check(streams: list[Stream], undisturbed: list[Stream]) -> None:
    for got, expected in zip(streams, undisturbed, strict=True):
        assert got.is_done
        assert got.token_ids == expected.token_ids and len(got.token_ids) == TOKENS
        assert got.text == expected.text
        assert got.usage is not None and got.usage["completion_tokens"] == TOKENS
