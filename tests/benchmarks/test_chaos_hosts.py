"""A small chaos over several hosts: each fault once, every history right, nothing left behind."""

import asyncio
import tempfile

import pytest

from benchmarks.chaos.cluster import cluster
from benchmarks.chaos.cluster_faults import CALM, FAULTS
from benchmarks.chaos.cluster_trials import run_cluster_trials
from benchmarks.chaos.rest import leaks_at_rest, least
from tests.fakes.redis_server import BINARY

pytestmark = [
    pytest.mark.redis,
    pytest.mark.skipif(not BINARY, reason="there is no redis-server and no valkey-server here"),
    pytest.mark.timeout(400),
]
TOKEN_S = 0.1
"""Slower than usual, so that a busy machine keeps up."""


async def test_streams_are_exact_and_nothing_is_left_whatever_happens_to_redis_gateways_workers_and_links() -> None:
    with tempfile.TemporaryFile() as log:
        async with cluster(log, TOKEN_S) as hosts:
            await run_cluster_trials(hosts, CALM, 1, num_streams=4, seed=1)
            before = await asyncio.to_thread(least, hosts.figures)
            outcomes = {
                fault.name: await run_cluster_trials(hosts, fault, 1, num_streams=4, seed=1) for fault in FAULTS
            }
            leaks = await asyncio.to_thread(leaks_at_rest, before, hosts.figures)
    assert {name: outcome.violations for name, outcome in outcomes.items() if outcome.violations} == {}
    assert leaks == []
    assert sum(outcome.num_trials for outcome in outcomes.values()) == len(FAULTS)
