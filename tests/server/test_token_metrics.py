"""Counts of tokens against the client library's own metrics of the same things."""

import random

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from server.token_metrics import INTER_TOKEN_BUCKETS_S, TokenCollector


def shown(registry: CollectorRegistry) -> list[str]:
    """The exposition, without the times at which metrics of the library were made."""
    return sorted(line for line in generate_latest(registry).decode().splitlines() if "_created" not in line)


def test_the_exposition_is_that_of_the_librarys_own_metrics() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    collector = TokenCollector()
    ours.register(collector)
    tokens = Counter("glimpsed_completion_tokens_total", "Tokens generated.", ("model",), registry=theirs)
    intervals = Histogram(
        "glimpsed_inter_token_seconds", "Between tokens of one choice (mean of a delta).", ("model",),
        registry=theirs, buckets=INTER_TOKEN_BUCKETS_S,
    )  # fmt: skip
    rng = random.Random(5)
    for model in ("a", 'b "quoted"'):
        counts = collector.counts(model)
        for interval_s in (0.0, *INTER_TOKEN_BUCKETS_S, 3.0, *(rng.expovariate(20) for _ in range(200))):
            counts.saw_interval(interval_s)
            counts.num_tokens += 2
            intervals.labels(model).observe(interval_s)
            tokens.labels(model).inc(2)
    assert shown(ours) == shown(theirs)


def test_a_models_series_begin_at_zero() -> None:
    registry, collector = CollectorRegistry(), TokenCollector()
    registry.register(collector)
    collector.counts("new")
    assert registry.get_sample_value("glimpsed_completion_tokens_total", {"model": "new"}) == 0
    assert registry.get_sample_value("glimpsed_inter_token_seconds_bucket", {"model": "new", "le": "+Inf"}) == 0
    assert registry.get_sample_value("glimpsed_inter_token_seconds_sum", {"model": "new"}) == pytest.approx(0)
