"""A small chaos over the fake engine: a few workers killed under load, every history right, nothing left behind."""

import asyncio
import tempfile

import pytest

from benchmarks.chaos.faults import KILL, KILL_ALL, LEAVERS, watched
from benchmarks.chaos.launch import queue, running
from benchmarks.chaos.questions import ask_fake
from benchmarks.chaos.rest import leaks_at_rest, least
from benchmarks.chaos.trials import Cell, Outcome, run_trials

MODELS = ["one", "two"]


@pytest.mark.timeout(180)
async def test_streams_are_exact_and_nothing_is_left_when_workers_are_killed() -> None:
    outcome = Outcome()
    with queue("local") as where, tempfile.TemporaryFile() as log, running("fake", MODELS, 2, where, log) as rig:
        async with watched(rig.daemon.url) as (client, fleet):
            cells = [Cell(client, fleet, model, 2, num_streams=4, source=ask_fake, stable_s=0.0) for model in MODELS]
            outcome.add(await run_trials(cells, LEAVERS, 2, seed=1))
            before = await asyncio.to_thread(least, rig.figures)
            for blow, num_trials in ((KILL, 4), (KILL_ALL, 2)):
                outcome.add(await run_trials(cells, blow, num_trials, seed=1))
        assert rig.daemon.metric("glimpsed_jobs_lost_total") > 0
        leaks = await asyncio.to_thread(leaks_at_rest, before, rig.figures)
    assert (outcome.num_trials, outcome.num_requests) == (8, 32)
    assert outcome.violations + leaks == []
