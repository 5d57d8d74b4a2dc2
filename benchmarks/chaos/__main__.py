"""Kill, stop and dismiss processes while clients stream: does every client get its answer, whole and once?

    python -m benchmarks.chaos [--transport local|redis] [--model fake|demo] [--kills 1000] [--seed 0]

fake: a fake engine, whose every token is a digest of all before it, so that the right answer of each request is known;
everything round it is the product. demo: the demo model, compared with a run without faults. A trial is one blow to
one model's workers while its clients stream; a fifth of the clients leave in the middle by themselves. Exits with 1
where anything was wrong, and tells each case.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO

from benchmarks.chaos import leaving
from benchmarks.chaos.faults import KILL, KILL_ALL, LEAVERS, STOP, Blow, watched
from benchmarks.chaos.launch import Rig, queue, running
from benchmarks.chaos.questions import DEMO, Source, ask_fake, ask_from, demo_questions
from benchmarks.chaos.rest import leaks_at_rest, least
from benchmarks.chaos.table import HEADER, row_of
from benchmarks.chaos.trials import Cell, Outcome, run_trials
from benchmarks.report import write_report

NUM_WORKERS = 2
"""Of each model."""
MIB = 1 << 20
ENGINES = {
    "fake": "A fake engine at 50 tokens a second and stream, with real pages; gateway, queue, workers are the product",
    "demo": "The demo model; answers are compared with a run without faults",
}

Launch = Callable[[list[str]], AbstractContextManager[Rig]]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one fault. num_moved: jobs that were taken from lost workers, if known."""

    fault: str
    outcome: Outcome
    num_moved: float | None = None


def main() -> int:
    """Measure; the process's exit code."""
    asked = arguments()
    models = [f"cell-{number}" for number in range(asked.cells)] if asked.model == "fake" else [DEMO]
    with contextlib.ExitStack() as stack:
        log: IO[bytes] = stack.enter_context(open(asked.log, "wb") if asked.log else tempfile.TemporaryFile())
        where = stack.enter_context(queue(asked.transport))

        def launch(some: list[str]) -> AbstractContextManager[Rig]:
            return running(asked.model, some, NUM_WORKERS, where, log)

        results, weight = asyncio.run(run(asked, models, launch))
    wrong = [f"{one.fault}: {found.kind}: {found.what}" for one in results for found in one.outcome.violations]
    print("\n".join(wrong), file=sys.stderr)
    notes = (
        f"{ENGINES[asked.model]}. Models: {len(models)} of {NUM_WORKERS} workers; {asked.streams} streams in a trial. "
        "Gap: the longest time that a client got nothing, of each trial. Back: until all workers are there again. "
        + weight
    )
    write_report(
        f"chaos_{asked.model}_{asked.transport}",
        f"Chaos: processes killed, stopped and dismissed under load ({asked.model} engine, {asked.transport} queue)",
        notes,
        HEADER,
        [row_of(one.fault, one.outcome, one.num_moved) for one in results],
    )
    return 1 if wrong else 0


def arguments() -> argparse.Namespace:
    """What is asked for; a number of trials for each fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transport", choices=("local", "redis"), default="local")
    parser.add_argument("--model", choices=("fake", "demo"), default="fake")
    parser.add_argument("--calm", type=int, default=50, help="trials without a blow")
    parser.add_argument("--kills", type=int, default=1000, help="kill -9 of one worker")
    parser.add_argument("--kills-of-all", type=int, default=50, help="kill -9 of all workers of a model at once")
    parser.add_argument("--stops", type=int, default=40, help="SIGSTOP of a worker, SIGCONT later")
    parser.add_argument("--leaves", type=int, default=10, help="SIGTERM of the daemon")
    parser.add_argument("--cells", type=int, default=8, help="models side by side (fake engine only)")
    parser.add_argument("--streams", type=int, default=4, help="clients in each trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", help="file for the daemons' log")
    return parser.parse_args()


async def run(asked: argparse.Namespace, models: list[str], launch: Launch) -> tuple[list[Result], str]:
    """All trials, fault by fault; and what the gateway weighs, in words."""
    plan = ((LEAVERS, asked.calm), (KILL, asked.kills), (KILL_ALL, asked.kills_of_all), (STOP, asked.stops))
    results: list[Result] = []
    with launch(models) as rig:
        source = await source_of(asked.model, rig.daemon.url, asked.seed)
        async with watched(rig.daemon.url) as (client, fleet):
            cells = [Cell(client, fleet, model, NUM_WORKERS, asked.streams, source) for model in models]
            # Threads, caches and connections that are made once are no leak.
            await run_trials(cells, LEAVERS, 2 * len(cells), seed=-1)
            before, began_mib = await asyncio.to_thread(least, rig.figures), rss_mib(rig)
            for blow, num_trials in plan:
                if num_trials:
                    results.append(await phase(rig, cells, blow, num_trials, asked.seed, before))
            num_requests = sum(one.outcome.num_requests for one in results)
            weight = f"The gateway holds {began_mib:.0f} MiB, and {rss_mib(rig):.0f} MiB {num_requests} requests later."
    if asked.leaves:
        outcome = await leaving.run_leaving(
            lambda: launch(models[:1]), source, 2 * asked.streams, asked.leaves, asked.seed
        )
        results.append(Result(leaving.NAME, outcome))
    return results, weight


async def phase(
    rig: Rig, cells: list[Cell], blow: Blow, num_trials: int, seed: int, before: dict[str, float]
) -> Result:
    """All trials with one blow, and whether the system comes to rest behind them."""
    moved = rig.daemon.metric("glimpsed_jobs_lost_total")
    outcome = await run_trials(cells, blow, num_trials, seed)
    for cell in cells:
        await cell.fleet.whole(cell.model, NUM_WORKERS)
    outcome.violations += await asyncio.to_thread(leaks_at_rest, before, rig.figures)
    print(f"{blow.name}: {outcome.num_trials} trials, {len(outcome.violations)} violations", file=sys.stderr)
    return Result(blow.name, outcome, rig.daemon.metric("glimpsed_jobs_lost_total") - moved)


async def source_of(model: str, url: str, seed: int) -> Source:
    """Where questions come from; the demo model is asked its own first, undisturbed."""
    if model == "fake":
        return ask_fake
    return ask_from({factor: await demo_questions(url, seed, factor) for factor in (1, STOP.token_factor)})


def rss_mib(rig: Rig) -> float:
    """The gateway's resident size."""
    return rig.daemon.gateway.memory_info().rss / MIB


if __name__ == "__main__":
    sys.exit(main())
