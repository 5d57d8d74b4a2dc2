"""What is counted for every chunk of every stream: tokens, and the time between them, by model.

Plain numbers, put into Prometheus' form when somebody scrapes. The client library's own histogram searches its buckets
one by one and takes a lock for each figure, which was a sixth of what a chunk cost.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

INTER_TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5)
_BOUNDS = [*(str(float(bound)) for bound in INTER_TOKEN_BUCKETS_S), "+Inf"]


class TokenCounts:
    """Those of one model."""

    __slots__ = ("interval_counts", "intervals_s", "num_tokens")

    def __init__(self) -> None:
        self.num_tokens = 0
        self.interval_counts = [0] * len(_BOUNDS)
        """By the first bound that is not less than the interval."""
        self.intervals_s = 0.0
        """The sum of all."""

    def saw_interval(self, interval_s: float) -> None:
        """So long was it between two tokens of one choice."""
        self.interval_counts[bisect_left(INTER_TOKEN_BUCKETS_S, interval_s)] += 1
        self.intervals_s += interval_s


class TokenCollector(Collector):
    """The counts of every model that was asked for."""

    def __init__(self) -> None:
        self._by_model: defaultdict[str, TokenCounts] = defaultdict(TokenCounts)

    def counts(self, model: str) -> TokenCounts:
        """Those of a model; the series of a new one begin at 0."""
        return self._by_model[model]

    def collect(self) -> Iterator[Metric]:
        """The families of this moment."""
        tokens = CounterMetricFamily("glimpsed_completion_tokens_total", "Tokens generated.", labels=("model",))
        intervals = HistogramMetricFamily(
            "glimpsed_inter_token_seconds", "Between tokens of one choice (mean of a delta).", labels=("model",)
        )
        for model, counts in self._by_model.items():
            tokens.add_metric((model,), counts.num_tokens)
            buckets = list(zip(_BOUNDS, map(float, accumulate(counts.interval_counts)), strict=True))
            intervals.add_metric((model,), buckets, counts.intervals_s)
        yield tokens
        yield intervals
