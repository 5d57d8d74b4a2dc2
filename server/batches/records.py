"""Batches and their lines in the database. Knows no files' bytes, no workers and no clock.

A line is answered at most once: its answer, its outcome and the batch's counts change in one transaction.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from schemas.openai.batches import (
    Batch,
    BatchError,
    BatchErrors,
    BatchUsage,
    InputTokensDetails,
    RequestCounts,
)


class Status(StrEnum):
    """Where a batch stands. A batch that is FINALIZING or CANCELLING runs no more lines and has its files written."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


RUNNING = (Status.VALIDATING, Status.IN_PROGRESS)
ENDED = (Status.COMPLETED, Status.FAILED, Status.EXPIRED, Status.CANCELLED)


class Outcome(StrEnum):
    """How a line ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch. Times are Unix seconds; `metadata` and `errors` are JSON."""

    id: str
    tenant: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    metadata: str | None = None
    output_lifetime_s: int | None = None
    status: str = Status.VALIDATING
    model: str | None = None
    errors: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    num_lines: int = 0
    num_completed: int = 0
    num_failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    def wire(self) -> Batch:
        """As a client sees it."""
        return Batch(
            id=self.id,
            endpoint=self.endpoint,
            model=self.model,
            errors=None if self.errors is None else BatchErrors(data=_decode_errors(self.errors)),
            input_file_id=self.input_file_id,
            completion_window=self.completion_window,
            status=self.status,
            output_file_id=self.output_file_id,
            error_file_id=self.error_file_id,
            created_at=self.created_at,
            in_progress_at=self.in_progress_at,
            expires_at=self.expires_at,
            finalizing_at=self.finalizing_at,
            completed_at=self.completed_at,
            failed_at=self.failed_at,
            expired_at=self.expired_at,
            cancelling_at=self.cancelling_at,
            cancelled_at=self.cancelled_at,
            request_counts=RequestCounts(total=self.num_lines, completed=self.num_completed, failed=self.num_failed),
            usage=BatchUsage(
                input_tokens=self.input_tokens,
                input_tokens_details=InputTokensDetails(self.cached_tokens),
                output_tokens=self.output_tokens,
                total_tokens=self.input_tokens + self.output_tokens,
            ),
            metadata=None if self.metadata is None else msgspec.json.decode(self.metadata, type=dict[str, str]),
        )


@dataclass(frozen=True, slots=True)
class LineRecord:
    """A line of an input file: the `number`th (from 1), at bytes `start` to `start + size_bytes`."""

    number: int
    custom_id: str
    start: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class AnsweredLine:
    """A line at a batch's end; without an outcome it was never answered."""

    number: int
    custom_id: str
    outcome: Outcome | None
    answer: bytes


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a line cost."""

    input: int = 0
    cached: int = 0
    output: int = 0


_FIELDS = tuple(BatchRecord.__dataclass_fields__)
_COLUMNS = ", ".join(_FIELDS)
_decode_errors = msgspec.json.Decoder(list[BatchError]).decode


def insert(db: sqlite3.Connection, batch: BatchRecord) -> None:
    """Add a batch."""
    values = {name: getattr(batch, name) for name in _FIELDS}
    db.execute(f"INSERT INTO batches ({_COLUMNS}) VALUES ({', '.join(':' + name for name in _FIELDS)})", values)


def find(db: sqlite3.Connection, batch_id: str) -> BatchRecord | None:
    """A batch, whoever's it is."""
    row = db.execute(f"SELECT {_COLUMNS} FROM batches WHERE id = ?", (batch_id,)).fetchone()
    return None if row is None else BatchRecord(*row)


def page(db: sqlite3.Connection, tenant: str, after: str | None, limit: int) -> list[BatchRecord]:
    """A tenant's batches, the newest first, older than `after`."""
    sql = f"SELECT {_COLUMNS} FROM batches WHERE tenant = ? AND (? IS NULL OR id < ?) ORDER BY id DESC LIMIT ?"
    return [BatchRecord(*row) for row in db.execute(sql, (tenant, after, after, limit))]


def unfinished(db: sqlite3.Connection) -> list[tuple[str, int]]:
    """The id of each batch that has not ended and when its time is over, the oldest first."""
    sql = f"SELECT id, expires_at FROM batches WHERE status NOT IN ({_marks(ENDED)}) ORDER BY id"
    return [(row["id"], row["expires_at"]) for row in db.execute(sql, ENDED)]


def advance(db: sqlite3.Connection, batch_id: str, sources: Sequence[Status], target: Status, now: int) -> bool:
    """Move a batch from one of these statuses to another. False where it is in none of them."""
    # VALIDATING is where batches begin; every other status has a column for its time.
    sql = f"UPDATE batches SET status = ?, {target}_at = ? WHERE id = ? AND status IN ({_marks(sources)})"
    return db.execute(sql, (target, now, batch_id, *sources)).rowcount == 1


def fail(db: sqlite3.Connection, batch_id: str, errors: Sequence[BatchError], now: int) -> bool:
    """End a batch whose input is not valid."""
    if not advance(db, batch_id, [Status.VALIDATING], Status.FAILED, now):
        return False
    db.execute("UPDATE batches SET errors = ? WHERE id = ?", (msgspec.json.encode(errors).decode(), batch_id))
    return True


def begin(db: sqlite3.Connection, batch_id: str, model: str, lines: Sequence[LineRecord], now: int) -> bool:
    """Let a batch with a valid input run."""
    if not advance(db, batch_id, [Status.VALIDATING], Status.IN_PROGRESS, now):
        return False
    db.execute("UPDATE batches SET model = ?, num_lines = ? WHERE id = ?", (model, len(lines), batch_id))
    db.executemany(
        "INSERT INTO lines (batch_id, number, custom_id, start, size_bytes) VALUES (?, ?, ?, ?, ?)",
        ((batch_id, line.number, line.custom_id, line.start, line.size_bytes) for line in lines),
    )
    return True


def unanswered(db: sqlite3.Connection, batch_id: str, after: int, limit: int) -> list[LineRecord]:
    """Lines behind number `after` that are still to be answered."""
    sql = (
        "SELECT number, custom_id, start, size_bytes FROM lines"
        " WHERE batch_id = ? AND outcome IS NULL AND number > ? ORDER BY number LIMIT ?"
    )
    return [LineRecord(*row) for row in db.execute(sql, (batch_id, after, limit))]


def answer(db: sqlite3.Connection, batch_id: str, number: int, outcome: Outcome, output: bytes, tokens: Tokens) -> bool:
    """Take a line's answer and count it. False, and no change, where it has one already."""
    sql = "UPDATE lines SET outcome = ?, answer = ? WHERE batch_id = ? AND number = ? AND outcome IS NULL"
    if db.execute(sql, (outcome, output, batch_id, number)).rowcount != 1:
        return False
    count = "num_completed" if outcome is Outcome.COMPLETED else "num_failed"
    db.execute(
        f"UPDATE batches SET {count} = {count} + 1, input_tokens = input_tokens + ?,"
        " cached_tokens = cached_tokens + ?, output_tokens = output_tokens + ? WHERE id = ?",
        (tokens.input, tokens.cached, tokens.output, batch_id),
    )
    return True


def lines_after(db: sqlite3.Connection, batch_id: str, after: int, limit: int) -> list[AnsweredLine]:
    """Lines behind number `after`, with their answers."""
    sql = (
        "SELECT number, custom_id, outcome, coalesce(answer, x'') AS answer FROM lines"
        " WHERE batch_id = ? AND number > ? ORDER BY number LIMIT ?"
    )
    rows = db.execute(sql, (batch_id, after, limit))
    return [
        AnsweredLine(number, custom_id, None if outcome is None else Outcome(outcome), output)
        for number, custom_id, outcome, output in rows
    ]


def end(
    db: sqlite3.Connection,
    batch_id: str,
    target: Status,
    output_file_id: str | None,
    error_file_id: str | None,
    num_expired: int,
    now: int,
) -> None:
    """End a batch whose output and error files, where there are any, are on the disk."""
    is_moved = advance(db, batch_id, [Status.FINALIZING, Status.CANCELLING], target, now)
    assert is_moved, "only the batch's own work ends it"
    db.execute(
        "UPDATE batches SET output_file_id = ?, error_file_id = ?, num_failed = num_failed + ? WHERE id = ?",
        (output_file_id, error_file_id, num_expired, batch_id),
    )
    db.execute("DELETE FROM lines WHERE batch_id = ?", (batch_id,))


def make_room(db: sqlite3.Connection, tenant: str, max_batches: int) -> bool:
    """Forget a tenant's oldest ended batches, so that there is room for another. False where too many still run."""
    num_batches = db.execute("SELECT count(*) FROM batches WHERE tenant = ?", (tenant,)).fetchone()[0]
    num_excess = num_batches + 1 - max_batches
    if num_excess <= 0:
        return True
    sql = (
        "DELETE FROM batches WHERE id IN (SELECT id FROM batches WHERE tenant = ?"
        f" AND status IN ({_marks(ENDED)}) ORDER BY id LIMIT ?)"
    )
    return bool(db.execute(sql, (tenant, *ENDED, num_excess)).rowcount == num_excess)


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))
