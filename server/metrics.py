"""What the gateway counts, in a registry of its own; and the workers' figures, shown again from their heartbeats."""

import math
import re
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from schemas.events import Accepted, Delta, Event, Finished
from server.errors import REASONS
from server.fleet import Fleet
from server.token_metrics import TokenCollector
from server.transport.base import WorkerInfo
from server.transport.leases import LOSSES

TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
E2E_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)

WORKER_PREFIX = "glimpsed_worker_"
MAX_WORKER_METRICS = 256
_METRIC_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,100}")


class HttpMetrics:
    """Requests by route and status, and why they failed. The route is the pattern that matched, so that paths cannot
    grow the series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "glimpsed_requests_total", "HTTP requests answered.", ("route", "status"), registry=registry
        )
        self.errors = Counter(
            "glimpsed_request_errors_total", "Requests that ended with an error.", ("reason",), registry=registry
        )
        for reason in sorted(REASONS):
            self.errors.labels(reason)  # From 0 on: the first of a kind is seen as an increase.
        self.in_flight = Gauge("glimpsed_http_in_flight", "HTTP requests being answered.", registry=registry)


class JobMetrics:
    """Jobs, their tokens and their latencies by model."""

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.jobs_lost = Counter(
            "glimpsed_jobs_lost_total", "Times that a worker was lost with a job.", registry=registry
        )
        self.jobs_resumed = Counter(
            "glimpsed_jobs_resumed_total", "Lost jobs that were submitted again.", registry=registry
        )
        self.stale_events = Counter(
            "glimpsed_stale_events_total",
            "Events dropped: of an older epoch, repeated, or of no job.",
            registry=registry,
        )
        self.ttft = Histogram(
            "glimpsed_ttft_seconds", "From submission to the first token.", ("model",),
            registry=registry, buckets=TTFT_BUCKETS_S,
        )  # fmt: skip
        self.e2e = Histogram(
            "glimpsed_e2e_seconds", "From submission to the end of the last choice.", ("model",),
            registry=registry, buckets=E2E_BUCKETS_S,
        )  # fmt: skip
        self.prompt_tokens = Counter(
            "glimpsed_prompt_tokens_total", "Prompt tokens of accepted requests.", ("model",), registry=registry
        )
        self.tokens = TokenCollector()
        registry.register(self.tokens)

    def watch(self, model: str) -> "JobWatch":
        """A watch on one job, started now."""
        return JobWatch(self, model)


class JobWatch:
    """Observes the events of one job as they reach the gateway."""

    def __init__(self, metrics: JobMetrics, model: str) -> None:
        self._clock = metrics.clock
        self._start_s = metrics.clock()
        self._latest_s: dict[int, float] = {}
        self._ttft = metrics.ttft.labels(model)
        self._e2e = metrics.e2e.labels(model)
        self._prompt_tokens = metrics.prompt_tokens.labels(model)
        self._tokens = metrics.tokens.counts(model)

    def saw(self, event: Event) -> None:
        """Take an event into the figures."""
        match event:
            case Delta():
                if event.token_ids:
                    self._saw_tokens(event.index, len(event.token_ids))
            case Accepted():
                self._prompt_tokens.inc(event.prompt_tokens)
            case Finished():
                self._e2e.observe(self._clock() - self._start_s)

    def _saw_tokens(self, index: int, num_tokens: int) -> None:
        now_s = self._clock()
        latest_s = self._latest_s.get(index)
        if latest_s is not None:
            self._tokens.saw_interval((now_s - latest_s) / num_tokens)
        elif not self._latest_s:
            self._ttft.observe(now_s - self._start_s)
        self._latest_s[index] = now_s
        self._tokens.num_tokens += num_tokens


class FleetCollector(Collector):
    """Queue depth, workers and the workers' own figures, read from the fleet whenever somebody scrapes."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        """The families of this moment."""
        depth = GaugeMetricFamily("glimpsed_queue_depth", "Jobs that wait for a worker.", labels=("model",))
        ready = GaugeMetricFamily("glimpsed_workers", "Workers that take jobs.", labels=("model",))
        for model, count in self._fleet.num_ready().items():
            depth.add_metric((model,), self._fleet.depth(model))
            ready.add_metric((model,), count)
        yield depth
        yield ready
        yield self._lost_workers()
        counts = self._fleet.affinity()
        yield CounterMetricFamily(
            "glimpsed_affinity_hits_total", "Jobs given to the worker that had their beginning.", counts.hits
        )
        yield CounterMetricFamily(
            "glimpsed_affinity_misses_total", "Jobs whose beginning was at another worker.", counts.misses
        )
        yield from _worker_families(self._fleet.workers())

    def _lost_workers(self) -> Metric:
        name, what = "glimpsed_workers_lost_total", "Workers that were lost, other than by draining."
        family = CounterMetricFamily(name, what, labels=("model", "cause"))
        counts = self._fleet.lost_workers()
        for model in self._fleet.models():
            for cause in LOSSES:  # From 0 on: the first of a kind is seen as an increase.
                family.add_metric((model, cause), counts.get((model, cause), 0))
        return family


def _worker_families(workers: list[WorkerInfo]) -> list[Metric]:
    families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
    for worker in workers:
        figures = {"running": worker.running, "waiting": worker.waiting, "kv_usage": worker.kv_usage} | worker.metrics
        for name, value in list(figures.items())[:MAX_WORKER_METRICS]:
            if not _METRIC_NAME.fullmatch(name) or not math.isfinite(value):
                continue
            full_name = WORKER_PREFIX + name.removeprefix(WORKER_PREFIX)
            if full_name not in families:
                kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
                families[full_name] = kind(full_name, "From the worker's heartbeat.", labels=("model", "worker"))
            families[full_name].add_metric((worker.card.name, worker.worker_id), value)
    return list(families.values())
