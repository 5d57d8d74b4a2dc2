"""Puts the parts together that batches take."""

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from server.batches.check import InputChecker, InputLimits
from server.batches.inner import InnerClient
from server.batches.keeper import Batches
from server.batches.lines import LineRunner
from server.batches.metrics import BatchMetrics
from server.batches.output import BatchFiles
from server.batches.seats import Seats
from server.batches.work import BatchWork
from server.files.database import Database
from server.files.store import FileStore
from server.fleet import Fleet


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """max_tenant_batches: kept of each tenant. max_running_lines: of all batches together. retry_s: the pause before a
    line that failed is tried again, at first."""

    max_tenant_batches: int = 1000
    max_lines: int = 50_000
    max_running_lines: int = 16
    retry_s: float = 1.0


def build_batches(
    database: Database,
    files: FileStore,
    fleet: Fleet,
    lines_app: ASGIApp,
    registry: CollectorRegistry,
    limits: BatchLimits,
    max_line_bytes: int,
    clock: Callable[[], float],
) -> Batches:
    """All batches, whose lines are answered by `lines_app`. clock: Unix seconds."""
    metrics = BatchMetrics(registry)
    seats = Seats(fleet, limits.max_running_lines)
    lines = LineRunner(database, files, InnerClient(lines_app), seats, metrics, limits.retry_s)
    checker = InputChecker(files, fleet, InputLimits(limits.max_lines, max_line_bytes))
    work = BatchWork(database, checker, lines, BatchFiles(database, files), metrics, clock)
    return Batches(database, files, work, fleet, limits.max_tenant_batches, clock)
