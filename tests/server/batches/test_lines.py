"""How lines are run: tried again, put back, so many at a time, and behind live requests."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, Response

from schemas.events import Event
from schemas.jobs import BACKGROUND_PRIORITY, Job
from server.app import GatewayLimits
from server.batches.build import BatchLimits
from server.batches.lines import MAX_ATTEMPTS
from tests.fakes.clock import Clock
from tests.fakes.memory_queue import MemoryQueue, WorkerDied, tell, worker
from tests.server.batches.rig import CHAT, answer_of, client_of, content, line, submit, until, until_true
from tests.server.batches.works import answer_ok, works
from tests.server.serving import ask, listening

LIMITS = GatewayLimits(batches=BatchLimits(retry_s=0.0))


def error(status: int, **headers: str) -> Response:
    return JSONResponse(
        {"error": {"code": "x"}}, status, {name.replace("_", "-"): text for name, text in headers.items()}
    )


@pytest.mark.parametrize(
    ("refusal", "num_asked"),
    [
        (error(500), MAX_ATTEMPTS),
        (error(502), MAX_ATTEMPTS),
        (error(504), MAX_ATTEMPTS),
        (error(408), MAX_ATTEMPTS),
        (error(409), MAX_ATTEMPTS),
        (error(500, x_should_retry="false"), 1),
        (error(400), 1),
        (error(404), 1),
        (error(413), 1),
        (error(400, x_should_retry="true"), MAX_ATTEMPTS),
    ],
    ids=lambda value: str(getattr(value, "status_code", value)),
)
async def test_a_failure_is_tried_again_as_openais_clients_would(
    tmp_path: Path, refusal: Response, num_asked: int
) -> None:
    async def refuse(_: dict[str, Any]) -> Response:
        return refusal

    async with works(tmp_path, refuse) as life:
        batch = await life.until(await life.submit([line("a")]), "completed")
        (output,) = await life.lines_of(batch.error_file_id)
        assert len(life.asked) == num_asked
    assert output["response"]["status_code"] == refusal.status_code
    assert (batch.num_completed, batch.num_failed) == (0, 1)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_line_for_which_there_is_no_room_waits_and_is_not_lost(tmp_path: Path, status: int) -> None:
    async def refuse_at_first(_: dict[str, Any]) -> Response:
        return error(status) if len(life.asked) <= 3 * MAX_ATTEMPTS else await answer_ok(_)

    async with works(tmp_path, refuse_at_first) as life:
        batch = await life.until(await life.submit([line("a")]), "completed")
        assert (batch.num_completed, batch.num_failed) == (1, 0)
        assert life.metric("glimpsed_batch_lines_total", outcome="put_back") == 3 * MAX_ATTEMPTS


async def test_an_application_that_breaks_is_an_error_of_the_line_alone(tmp_path: Path) -> None:
    async def break_down(body: dict[str, Any]) -> Response:
        if body["messages"][0]["content"] == "break":
            raise ZeroDivisionError
        return await answer_ok(body)

    async with works(tmp_path, break_down) as life:
        batch = await life.until(await life.submit([line("a", "break"), line("b")]), "completed")
        (output,) = await life.lines_of(batch.error_file_id)
    assert output["response"]["body"]["error"]["code"] == "internal_error"
    assert (batch.num_completed, batch.num_failed) == (1, 1)


async def test_only_so_many_lines_run_at_a_time_and_batches_take_turns(tmp_path: Path) -> None:
    running, most, gate = 0, 0, asyncio.Event()

    async def count(body: dict[str, Any]) -> Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        await asyncio.sleep(0)
        running -= 1
        return await answer_ok(body)

    async with works(tmp_path, count) as life:
        long = await life.submit([line(f"{n}", "long") for n in range(40)])
        await until_true(lambda: running == 4)
        short = await life.submit([line("a", "short")])
        await life.until(short, "in_progress")
        gate.set()
        await life.until(short, "completed")
        assert life.asked.index("short") < 20
        await life.until(long, "completed")
    assert most == 4
    assert life.metric("glimpsed_batch_lines_running") == 0


async def test_lines_wait_for_a_worker_of_their_model_and_for_waiting_requests(tmp_path: Path) -> None:
    async with works(tmp_path) as life:
        await life.until(await life.submit([line("a")]), "completed")
        idle = life.queue.fleet.copy()
        life.queue.fleet[:] = [worker("demo", state="draining")]
        batch_id = await life.submit([line("b")])
        await life.until(batch_id, "in_progress")
        waits = [asyncio.sleep(0.02) for _ in range(3)]
        life.queue.depth = lambda model: 1  # type: ignore[method-assign]
        await waits[0]
        life.queue.fleet[:] = idle
        await waits[1]
        assert len(life.asked) == 1
        life.queue.depth = lambda model: 0  # type: ignore[method-assign]
        await life.until(batch_id, "completed")
        await waits[2]
        assert len(life.asked) == 2


async def test_what_is_late_is_expired_while_it_runs(tmp_path: Path) -> None:
    clock = Clock(1_700_000_000.0)

    async def wait(body: dict[str, Any]) -> Response:
        if body["messages"][0]["content"] == "wait":
            await asyncio.Event().wait()
        return await answer_ok(body)

    async with works(tmp_path, wait, clock) as life:
        batch_id = await life.submit([line("a"), line("b", "wait"), line("c", "wait")])
        await until_true(lambda: life.metric("glimpsed_batch_lines_total", outcome="completed") == 1)
        clock.advance(24 * 3600 - 1)
        await life.batches.tick()
        assert (await life.batches.get(batch_id, "me")).status == "in_progress"
        clock.advance(1)
        await life.batches.tick()
        batch = await life.until(batch_id, "expired")
        outputs, errors = await life.lines_of(batch.output_file_id), await life.lines_of(batch.error_file_id)
        assert life.metric("glimpsed_batch_lines_total", outcome="expired") == 2
    assert [one["custom_id"] for one in outputs] == ["a"]
    assert [(one["custom_id"], one["error"]["code"]) for one in errors] == [
        ("b", "batch_expired"),
        ("c", "batch_expired"),
    ]
    assert (batch.num_lines, batch.num_completed, batch.num_failed) == (3, 1, 2)


async def test_a_live_request_takes_the_place_of_a_line_where_the_queue_is_full(tmp_path: Path) -> None:
    started = asyncio.Event()

    async def script(job: Job) -> AsyncGenerator[Event, None]:
        if job.priority == BACKGROUND_PRIORITY and not started.is_set():
            started.set()
            await asyncio.Event().wait()
        async for event in tell("a cat")(job):
            yield event

    queue = MemoryQueue(script)
    async with listening(queue, data_dir=tmp_path, limits=LIMITS) as (host, port):
        async with client_of(f"http://{host}:{port}/v1") as client:
            batch = await submit(client, [line("a")])
            await started.wait()
            queue.max_waiting = 0
            async with httpx.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False) as live:
                first = await live.post(CHAT, json=ask("live"))
                assert first.status_code == 200
                # A line that tries again meanwhile is refused, and cancelled as well.
                assert queue.cancelled[0] == queue.submitted[0].job_id
                # There is no line left that could make way.
                assert (await live.post(CHAT, json=ask("live"))).status_code == 429
            queue.max_waiting = 1000
            batch = await until(client, batch.id)
            (output,) = await content(client, batch.output_file_id)
    assert answer_of(output) == "a cat"
    assert [job.priority for job in queue.submitted] == [BACKGROUND_PRIORITY, 0, BACKGROUND_PRIORITY]


async def test_a_line_outlives_its_worker(tmp_path: Path) -> None:
    async def script(job: Job) -> AsyncGenerator[Event, None]:
        async for event in tell("a cat sat")(job):
            yield event
            if job.epoch == 0 and event.seq == 2:
                raise WorkerDied

    queue = MemoryQueue(script)
    async with listening(queue, data_dir=tmp_path, limits=LIMITS) as (host, port):
        async with client_of(f"http://{host}:{port}/v1") as client:
            batch = await until(client, (await submit(client, [line("a"), line("b")])).id)
            outputs = await content(client, batch.output_file_id)
    assert [answer_of(one) for one in outputs] == ["a cat sat"] * 2
    assert len(queue.submitted) == 4
