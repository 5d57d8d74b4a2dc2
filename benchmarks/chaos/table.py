"""Outcomes as rows of a table."""

import math

from benchmarks.chaos.history import Kind
from benchmarks.chaos.trials import Outcome

HEADER = [
    "fault",
    "trials",
    "requests",
    "left by themselves",
    "refused",
    "jobs moved",
    "lost",
    "repeated",
    "wrong",
    "failed",
    "last events",
    "usage",
    "leaks",
    "gap p50 s",
    "gap p99 s",
    "gap max s",
    "noticed max s",
    "back p99 s",
]


def row_of(name: str, outcome: Outcome, num_moved: float | None) -> list[object]:
    """num_moved: jobs that were taken from lost workers, if known."""
    return [
        name,
        outcome.num_trials,
        outcome.num_requests,
        outcome.num_left,
        outcome.num_refused,
        "" if num_moved is None else int(num_moved),
        outcome.count(Kind.LOST),
        outcome.count(Kind.REPEATED),
        outcome.count(Kind.WRONG),
        outcome.count(Kind.FAILED),
        outcome.count(Kind.UNENDED, Kind.ENDED_TWICE),
        outcome.count(Kind.WRONG_COUNT),
        outcome.count(Kind.LEAK),
        quantile(outcome.gaps_s, 0.5),
        quantile(outcome.gaps_s, 0.99),
        max(outcome.gaps_s, default=math.nan),
        max(outcome.noticed_s, default=""),
        quantile(outcome.backs_s, 0.99) if outcome.backs_s else "",
    ]


def quantile(values: list[float], share: float) -> float:
    """The smallest value that this share of all does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.nan
