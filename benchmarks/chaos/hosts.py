"""What parts hosts, or ends them, while clients stream: does every client get its answer, whole and once?

    python -m benchmarks.chaos.hosts [--trials 20] [--faults WORD ...] [--seed 0]

Two gateways and two workers, each behind a link of its own to one Redis that writes a file; the fake engine. Exits
with 1 where anything was wrong, and tells each case.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from typing import IO

from benchmarks.chaos.cluster import Cluster, cluster
from benchmarks.chaos.cluster_faults import CALM, FAULTS, Fault
from benchmarks.chaos.cluster_trials import run_cluster_trials
from benchmarks.chaos.fake_engine import TOKEN_S
from benchmarks.chaos.rest import leaks_at_rest, least
from benchmarks.chaos.table import HEADER, row_of
from benchmarks.chaos.trials import Outcome
from benchmarks.report import write_report

NOTES = """
A fake engine at {pace:g} tokens a second and stream, with real pages. Two gateways and two workers, processes without a
supervisor, each of which reaches Redis by a proxy; Redis writes its file every second. Refused: requests that came
while the queue could not be reached, and got a 503. Gap: the longest time that a client got nothing, of each trial,
with the time for which Redis or a link was away. Noticed: until the gateway took a worker for lost; until no worker
worked for a lost gateway any more.
"""


def main() -> int:
    """Measure; the process's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20, help="of each fault")
    parser.add_argument("--faults", nargs="*", default=[""], help="only those whose name has one of these words in it")
    parser.add_argument("--streams", type=int, default=6, help="clients in each trial; even")
    parser.add_argument(
        "--token-s", type=float, default=TOKEN_S, help="the fake engine's pace; slower on a busy machine"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", help="file for the processes' log")
    asked = parser.parse_args()
    faults = [fault for fault in FAULTS if any(word in fault.name for word in asked.faults)]
    with contextlib.ExitStack() as stack:
        log: IO[bytes] = stack.enter_context(open(asked.log, "wb") if asked.log else tempfile.TemporaryFile())
        outcomes = asyncio.run(run(faults, asked, log))
    wrong = [f"{name}: {found.kind}: {found.what}" for name, one in outcomes.items() for found in one.violations]
    print("\n".join(wrong), file=sys.stderr)
    write_report(
        "chaos_hosts",
        "Chaos: hosts parted and lost under load (fake engine, Redis queue)",
        NOTES.format(pace=1 / asked.token_s),
        HEADER,
        [row_of(name, outcome, None) for name, outcome in outcomes.items()],
    )
    return 1 if wrong else 0


async def run(faults: Sequence[Fault], asked: argparse.Namespace, log: IO[bytes]) -> dict[str, Outcome]:
    """The outcome of each fault, by its name; of no fault first."""
    async with cluster(log, asked.token_s) as hosts:
        # Threads, caches and connections that are made once are no leak.
        await run_cluster_trials(hosts, CALM, 2, asked.streams, seed=-1)
        before = await asyncio.to_thread(least, hosts.figures)
        return {
            fault.name: await phase(hosts, fault, asked.trials, asked.streams, asked.seed, before)
            for fault in (CALM, *faults)
        }


async def phase(
    hosts: Cluster, fault: Fault, num_trials: int, num_streams: int, seed: int, before: dict[str, float]
) -> Outcome:
    """All trials with one fault, and whether the system comes to rest behind them."""
    outcome = await run_cluster_trials(hosts, fault, num_trials, num_streams, seed)
    outcome.violations += await asyncio.to_thread(leaks_at_rest, before, hosts.figures)
    print(f"{fault.name}: {outcome.num_trials} trials, {len(outcome.violations)} violations", file=sys.stderr)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
