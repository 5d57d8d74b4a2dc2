"""A process that ends at any point of a batch's life loses no line and answers none twice."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from starlette.responses import JSONResponse, Response

from server.files.database import Database
from tests.fakes.clock import Clock
from tests.server.batches.rig import line, until_true
from tests.server.batches.works import Works, answer_ok, works

Result = TypeVar("Result")
LINES = [line("a", "one"), line("b", "two"), line("c", "refuse me")]
NUM_CALLS = 26
"""As many as a batch of three lines takes of the database, from the server's start to the batch's end."""
ENDED = "glimpsed_batches_total"


class Died(BaseException):
    """The process has ended: nothing more is written, and nobody handles it."""


class MortalDatabase(Database):
    """Dies with its `dies_at`th call: before it is committed, or after, when its caller never learns of it."""

    def __init__(self, folder: Path, dies_at: int, is_committed: bool) -> None:
        super().__init__(folder)
        self.num_calls = 0
        self._dies_at = dies_at
        self._is_committed = is_committed

    @property
    def is_dead(self) -> bool:
        return self.num_calls >= self._dies_at

    async def call(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        if self.is_dead:
            raise Died
        self.num_calls += 1
        if self.is_dead and not self._is_committed:
            raise Died
        result = await super().call(work)
        if self.is_dead:
            raise Died
        return result


async def answer(body: dict[str, Any]) -> Response:
    if "refuse" in body["messages"][0]["content"]:
        return JSONResponse({"error": {"code": "invalid_value"}}, 400)
    return await answer_ok(body)


def answered(folder: Path) -> dict[str, bytes]:
    """What the database of a dead process has of each line that has its answer."""
    connection = sqlite3.connect(folder / "glimpsed.sqlite3")
    try:
        return dict(connection.execute("SELECT custom_id, answer FROM lines WHERE outcome IS NOT NULL").fetchall())
    finally:
        connection.close()


async def live_until_death(folder: Path, dies_at: int, is_committed: bool) -> list[str]:
    """What was asked of the workers by a process that died."""
    database = MortalDatabase(folder, dies_at, is_committed)
    asked: list[str] = []
    with suppress(Died):
        async with works(folder, answer, database=database) as first:
            asked = first.asked
            await first.submit(LINES)
            await until_true(lambda: database.is_dead or bool(first.metric(ENDED, status="completed")))
    return asked


async def test_a_batch_takes_no_more_steps_than_are_tried(tmp_path: Path) -> None:
    database = MortalDatabase(tmp_path, 10**9, False)
    async with works(tmp_path, answer, database=database) as life:
        await life.submit(LINES)
        await until_true(lambda: bool(life.metric(ENDED, status="completed")))
    assert NUM_CALLS - 6 <= database.num_calls <= NUM_CALLS


@pytest.mark.parametrize("is_committed", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("dies_at", range(1, NUM_CALLS + 1))
async def test_the_next_process_brings_the_batch_to_its_end(tmp_path: Path, dies_at: int, is_committed: bool) -> None:
    await live_until_death(tmp_path, dies_at, is_committed)
    kept = answered(tmp_path)
    async with works(tmp_path, answer) as second:
        batch_ids = await second.database.call(
            lambda db: [row["id"] for row in db.execute("SELECT id FROM batches").fetchall()]
        )
        if not batch_ids:
            assert not kept
            await second.files.purge()
            return
        batch = await second.until(batch_ids[0], "completed")
        outputs = await second.lines_of(batch.output_file_id)
        errors = await second.lines_of(batch.error_file_id)
        on_disk = {path.name for path in (tmp_path / "files").iterdir()}
        assert on_disk == {batch.input_file_id, batch.output_file_id, batch.error_file_id}
        assert answered(tmp_path) == {}
    assert [one["custom_id"] for one in outputs] == ["a", "b"]
    assert [one["custom_id"] for one in errors] == ["c"]
    assert (batch.num_lines, batch.num_completed, batch.num_failed) == (3, 2, 1)
    assert (batch.input_tokens, batch.cached_tokens, batch.output_tokens) == (4, 2, 2)
    texts = {one["custom_id"]: one["body"]["messages"][0]["content"] for one in LINES}
    assert not {texts[custom_id] for custom_id in kept} & set(second.asked), "an answered line was run again"
    ids = {one["id"] for one in outputs + errors}
    assert all(any(f'"{one}"'.encode() in output for one in ids) for output in kept.values())


async def test_lines_that_run_when_the_server_leaves_are_run_by_the_next_one(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def wait(body: dict[str, Any]) -> Response:
        if body["messages"][0]["content"] != "at once":
            await gate.wait()
        return await answer_ok(body)

    async with works(tmp_path, wait) as first:
        batch_id = await first.submit([line("a", "at once"), line("b"), line("c")])
        await until_true(lambda: first.metric("glimpsed_batch_lines_total", outcome="completed") == 1)
        first.fleet.is_draining = True
        await until_true(lambda: first.metric("glimpsed_batch_lines_running") == 0)
        assert (await first.batches.get(batch_id, "me")).status == "in_progress"
    gate.set()
    async with works(tmp_path, wait) as second:
        batch = await second.until(batch_id, "completed")
        assert second.asked == ["hello", "hello"]
        assert (batch.num_completed, batch.num_failed) == (3, 0)


@pytest.mark.parametrize("status", ["validating", "in_progress"])
async def test_a_batch_that_is_overdue_at_the_start_is_ended(tmp_path: Path, status: str) -> None:
    clock = Clock(1_700_000_000.0)

    async def never(_: dict[str, Any]) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with works(tmp_path, never, clock) as first:
        if status == "validating":
            first.queue.fleet.clear()
        batch_id = await first.submit(LINES)
        await first.until(batch_id, status)
        if status == "in_progress":
            await until_true(lambda: len(first.asked) == 3)
    clock.advance(25 * 3600)
    async with works(tmp_path, never, clock) as second:
        batch = await second.until(batch_id, "expired")
        errors = await second.lines_of(batch.error_file_id)
    assert batch.expired_at == int(clock())
    expected = [] if status == "validating" else ["a", "b", "c"]
    assert [(one["custom_id"], one["response"], one["error"]["code"]) for one in errors] == [
        (custom_id, None, "batch_expired") for custom_id in expected
    ]
    assert batch.num_failed == len(expected)


async def test_a_disk_that_fails_stops_no_batch_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.batches.keeper.RETRY_S", 0.01)

    class Moody(Database):
        num_to_fail = 0

        async def call(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
            def fail(db: sqlite3.Connection) -> Result:
                raise sqlite3.OperationalError("database or disk is full")

            is_broken = self.num_to_fail > 0
            self.num_to_fail -= is_broken
            return await super().call(fail if is_broken else work)

    database = Moody(tmp_path)

    async def break_at_first(body: dict[str, Any]) -> Response:
        database.num_to_fail = 3 if len(life.asked) == 1 else 0
        return await answer_ok(body)

    life: Works
    async with works(tmp_path, break_at_first, database=database) as life:
        batch = await life.until_ended(await life.submit([line("a")]))
    assert (batch.status, batch.num_completed, len(life.asked)) == ("completed", 1, 2)
