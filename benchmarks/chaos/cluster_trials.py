"""Trials in a cluster: clients of both gateways stream, a fault comes and goes, and every history is checked."""

import asyncio
import random
from collections.abc import Sequence

from benchmarks.chaos.clients import Asked, Trigger, ask
from benchmarks.chaos.cluster import MODEL, NUM_GATEWAYS, Cluster
from benchmarks.chaos.cluster_faults import Fault
from benchmarks.chaos.history import Kind, Violation
from benchmarks.chaos.questions import MIN_TOKENS, Known, ask_fake, maybe_leaving
from benchmarks.chaos.trials import JITTER_S, Outcome, judge, places

ANSWER_S, ENDLESS_S = 1.0, 80.0
"""How long the shortest answers take; and so long that only a cancellation can be their end."""


async def run_cluster_trials(cluster: Cluster, fault: Fault, num_trials: int, num_streams: int, seed: int) -> Outcome:
    """One trial after another, as Redis is everybody's. num_streams: even."""
    outcome = Outcome()
    for number in range(num_trials):
        try:
            outcome.add(await _trial(cluster, fault, num_streams, random.Random(f"{seed} {fault.name} {number}")))
        except TimeoutError:
            outcome.violations.append(Violation(Kind.FAILED, f"trial {number}: the cluster did not come back"))
    await cluster.whole()
    return outcome


async def _trial(cluster: Cluster, fault: Fault, num_streams: int, rng: random.Random) -> Outcome:
    await cluster.whole()
    shortest_s = [ENDLESS_S if fault.is_last_word else ANSWER_S, ANSWER_S]
    factors = [max(1, round(at_least_s / (MIN_TOKENS * cluster.token_s))) for at_least_s in shortest_s]
    known = [ask_fake(rng, MODEL, factors[place % NUM_GATEWAYS]) for place in range(num_streams)]
    # The last one stays: it says when the fault comes.
    known[:-1] = [maybe_leaving(rng, one) for one in known[:-1]]
    trigger = Trigger(rng.choice(places(known[-1].answer.completion_tokens)))
    asked = [ask(cluster.clients[place % NUM_GATEWAYS], one.question) for place, one in enumerate(known[:-1])]
    asked.append(ask(cluster.clients[-1], known[-1].question, trigger))
    await trigger.wait()
    await asyncio.sleep(rng.random() * JITTER_S)
    noticed_s = await fault.strike(cluster, rng)
    await asyncio.gather(*(one.task for one in asked))
    if fault.is_last_word:
        for one in asked[::NUM_GATEWAYS]:
            one.history.has_left = not one.history.ends  # They did not want to.
    outcome = _judge_but_for_refused(known, asked)
    outcome.noticed_s += [] if noticed_s is None else [noticed_s]
    return outcome


def _judge_but_for_refused(known: Sequence[Known], asked: Sequence[Asked]) -> Outcome:
    """A request that comes while the queue cannot be reached is refused, and not lost."""
    served = [pair for pair in zip(known, asked, strict=True) if not _is_refused(pair[1])]
    outcome = judge([one for one, _ in served], [one for _, one in served])
    outcome.num_refused = len(asked) - len(served)
    outcome.num_requests += outcome.num_refused
    return outcome


def _is_refused(asked: Asked) -> bool:
    history = asked.history
    return not history.has_begun and len(history.ends) == 1 and history.ends[0].startswith("503 ")
