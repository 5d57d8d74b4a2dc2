"""What is counted of batches."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from server.batches.records import Outcome, Status

PUT_BACK = "put_back"


class BatchMetrics:
    """Batches by status, lines by outcome. Every series is there from the start."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._batches = Counter(
            "glimpsed_batches_total", "Batches that reached a status.", ("status",), registry=registry
        )
        self._lines = Counter("glimpsed_batch_lines_total", "Lines by how they ended.", ("outcome",), registry=registry)
        self.running = Gauge("glimpsed_batch_lines_running", "Lines being answered.", registry=registry)
        for status in Status:
            self._batches.labels(status)
        for outcome in (*Outcome, PUT_BACK):
            self._lines.labels(outcome)

    def reached(self, status: Status) -> None:
        """A batch is in a new status."""
        self._batches.labels(status).inc()

    def ended(self, outcome: str, num_lines: int = 1) -> None:
        """Lines ended so; `PUT_BACK`: they made way and will run again."""
        self._lines.labels(outcome).inc(num_lines)
