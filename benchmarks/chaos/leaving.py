"""SIGTERM of a daemon under load: every answer that had begun ends as it should, and nothing is left behind."""

import asyncio
import random
import signal
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager

import httpx
import psutil

from benchmarks.chaos.clients import Question, Trigger, ask, clients
from benchmarks.chaos.history import Kind, Violation
from benchmarks.chaos.launch import Rig
from benchmarks.chaos.questions import Source, maybe_leaving
from benchmarks.chaos.rest import leaks_at_rest
from benchmarks.chaos.trials import Outcome, judge

NAME = "SIGTERM of the daemon"
NOTICE_S = 1.0
EXIT_S = 40.0


async def run_leaving(
    launch: Callable[[], AbstractContextManager[Rig]], source: Source, num_streams: int, num_trials: int, seed: int
) -> Outcome:
    """So many daemons are started, asked, and told to leave while they answer."""
    outcome = Outcome()
    for number in range(num_trials):
        with launch() as rig:
            async with clients(rig.daemon.url) as client:
                outcome.add(await _trial(rig, client, source, num_streams, random.Random(f"{seed} leaving {number}")))
    return outcome


async def _trial(rig: Rig, client: httpx.AsyncClient, source: Source, num_streams: int, rng: random.Random) -> Outcome:
    known = [source(rng, rig.models[0], 1) for _ in range(num_streams)]
    known[1:] = [maybe_leaving(rng, one) for one in known[1:]]
    moment = Trigger(rng.randrange(known[0].answer.completion_tokens))
    begun = [Trigger(0) for _ in known]
    asked = [ask(client, one.question, mark, moment) for one, mark in zip(known[:1], begun[:1], strict=True)]
    asked += [ask(client, one.question, mark) for one, mark in zip(known[1:], begun[1:], strict=True)]
    for trigger in (*begun, moment):
        await trigger.wait()
    processes = rig.daemon.gateway.children(recursive=True)
    rig.daemon.process.send_signal(signal.SIGTERM)
    violations = await _refuses(client, source(rng, rig.models[0], 1).question)
    await asyncio.gather(*(one.task for one in asked))
    violations += await asyncio.to_thread(_has_left, rig, processes)
    outcome = judge(known, asked)
    outcome.violations += violations
    return outcome


async def _refuses(client: httpx.AsyncClient, question: Question) -> list[Violation]:
    """Not ready within a second, and from then on each new request is refused, if anybody listens at all."""
    try:
        async with asyncio.timeout(NOTICE_S):
            while (await client.get("/readyz")).status_code == 200:
                await asyncio.sleep(0.01)
    except TimeoutError:
        return [Violation(Kind.FAILED, f"still ready {NOTICE_S} s behind SIGTERM")]
    except httpx.TransportError:
        return []
    late = ask(client, question)
    await late.task
    if late.history.choices or any(not end.startswith("503 ") for end in late.history.ends):
        return [Violation(Kind.FAILED, f"a request behind SIGTERM ended with {late.history.ends}")]
    return []


def _has_left(rig: Rig, processes: list[psutil.Process]) -> list[Violation]:
    """Exit code 0, no process and no file left; a Redis forgets it within a lease."""
    try:
        code = rig.daemon.process.wait(EXIT_S)
    except subprocess.TimeoutExpired:
        return [Violation(Kind.LEAK, f"the daemon still runs {EXIT_S} s behind SIGTERM")]
    violations = [] if code == 0 else [Violation(Kind.FAILED, f"the daemon ended with code {code}")]
    _, alive = psutil.wait_procs(processes, timeout=EXIT_S)
    violations += [Violation(Kind.LEAK, f"process {process.pid} still runs") for process in alive]
    return violations + leaks_at_rest({}, rig.remains)
