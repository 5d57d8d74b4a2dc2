"""What waits at the gate, for those who scrape."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.limits.gate import Gate


class GateCollector(Collector):
    """Reads the gate whenever somebody scrapes."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def collect(self) -> Iterator[Metric]:
        """The family of this moment."""
        tokens = GaugeMetricFamily("glimpsed_queue_tokens", "Prompt tokens that wait, estimated.", labels=("model",))
        for model, num_tokens in self._gate.waiting_tokens().items():
            tokens.add_metric((model,), num_tokens)
        yield tokens
