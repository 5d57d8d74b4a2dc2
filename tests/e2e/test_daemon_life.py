"""The daemon as a process: workers that are killed or stopped in the middle of an answer, draining, exit codes."""

import asyncio
import os
import re
import signal
import socket
from pathlib import Path

import psutil
import pytest

from tests.e2e.scripted import PATIENCE_S, Daemon, run_command, running, text_of
from tests.fakes.ports import free_port
from tests.fakes.scripted_backend import answer

TOKENS = 60


async def read(daemon: Daemon, prompt: str, num_tokens: int = TOKENS) -> str:
    """The whole streamed answer; fails unless it ended as it should."""
    chunks = [chunk async for chunk in daemon.chunks(prompt, max_tokens=num_tokens)]
    assert chunks[-1] == {"done": True}, chunks[-1]
    return "".join(text_of(chunk) for chunk in chunks)


async def until_gone(*pids: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
            await asyncio.sleep(0.02)


async def until_workers(daemon: Daemon, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(await daemon.workers()) != count:
            await asyncio.sleep(0.02)


async def test_text_is_exact_when_the_worker_is_killed_in_the_middle_of_the_stream() -> None:
    async with running("tiny=slow", "--workers-per-model", "2") as daemon:
        texts, killed = "", 0
        async for chunk in daemon.chunks("tell me", max_tokens=TOKENS):
            texts += text_of(chunk)
            if killed == 0 and texts.count(" ") == 10:
                killed = await daemon.busy_worker()
                os.kill(killed, signal.SIGKILL)
        assert chunk == {"done": True}
        assert texts == answer("tell me", 7, TOKENS)
        await daemon.until_ready()
        assert killed not in [worker["pid"] for worker in await daemon.workers()]


async def test_many_streams_are_exact_when_a_worker_is_killed() -> None:
    async with running("tiny=slow", "--workers-per-model", "2") as daemon:
        prompts = [f"prompt {number}" for number in range(16)]
        streams = [asyncio.create_task(read(daemon, prompt)) for prompt in prompts]
        os.kill(await daemon.busy_worker(), signal.SIGKILL)
        assert await asyncio.gather(*streams) == [answer(prompt, 7, TOKENS) for prompt in prompts]


async def test_a_lone_workers_jobs_wait_for_its_successor() -> None:
    async with running("tiny=slow") as daemon:
        stream = asyncio.create_task(read(daemon, "alone"))
        os.kill(await daemon.busy_worker(), signal.SIGKILL)
        await daemon.until_status(503)
        assert await stream == answer("alone", 7, TOKENS)


async def test_a_stopped_worker_loses_its_jobs_and_its_late_tokens_change_nothing() -> None:
    async with running("tiny=slow", "--workers-per-model", "2") as daemon:
        stream = asyncio.create_task(read(daemon, "zombie", 220))
        pid = await daemon.busy_worker()
        os.kill(pid, signal.SIGSTOP)
        async with asyncio.timeout(PATIENCE_S):
            while len(await daemon.workers()) == 2:
                await asyncio.sleep(0.05)
        os.kill(pid, signal.SIGCONT)
        assert await stream == answer("zombie", 7, 220)
        async with asyncio.timeout(PATIENCE_S):
            while pid not in [worker["pid"] for worker in await daemon.workers()]:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("prompt", ["die", "poison"], ids=["in-its-answer", "before-it-is-accepted"])
async def test_a_request_that_kills_every_worker_is_failed_and_the_daemon_recovers(prompt: str) -> None:
    async with running("tiny=slow", "--workers-per-model", "2") as daemon:
        chunks = [chunk async for chunk in daemon.chunks(prompt)]
        assert chunks[-1]["error"]["code"] == "engine_error"
        lost = re.search(r"^glimpsed_jobs_lost_total (\S+)$", (await daemon.client.get("/metrics")).text, re.MULTILINE)
        assert lost is not None and float(lost[1]) == 2
        assert await read(daemon, "and on", 4) == answer("and on", 7, 4)


async def test_a_broken_backend_moves_its_jobs_and_its_process_is_replaced() -> None:
    async with running("tiny=slow", "--workers-per-model", "2") as daemon:
        before = {worker["pid"] for worker in await daemon.workers()}
        chunks = [chunk async for chunk in daemon.chunks("break")]
        assert chunks[-1]["error"]["code"] == "engine_error"
        assert await read(daemon, "and on", 4) == answer("and on", 7, 4)
        assert {worker["pid"] for worker in await daemon.workers()} != before


async def test_restarting_every_worker_in_turn_is_not_seen_in_any_stream() -> None:
    """Answers take longer than a worker has to leave."""
    async with running("tiny=slow", "--workers-per-model", "2", "--shutdown-timeout", "0.2") as daemon:
        is_enough = asyncio.Event()

        async def ask(prompt: str) -> None:
            while not is_enough.is_set():
                assert await read(daemon, prompt, 150) == answer(prompt, 7, 150)

        async with asyncio.TaskGroup() as clients:
            for number in range(6):
                clients.create_task(ask(f"prompt {number}"))
            await daemon.busy_worker()
            for pid in [worker["pid"] for worker in await daemon.workers()]:
                os.kill(pid, signal.SIGTERM)
                await until_gone(pid)
                await until_workers(daemon, 2)
            is_enough.set()
        metrics = (await daemon.client.get("/metrics")).text
        resumed = re.search(r"^glimpsed_jobs_resumed_total (\S+)$", metrics, re.MULTILINE)
        assert resumed is not None and float(resumed[1]) > 0


async def test_a_worker_that_is_told_twice_ends_at_once_and_its_answers_go_on() -> None:
    async with running("tiny=slow", "--workers-per-model", "2") as daemon:
        stream = asyncio.create_task(read(daemon, "twice", 220))
        pid = await daemon.busy_worker()
        os.kill(pid, signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            while "draining" not in [worker["state"] for worker in await daemon.workers()]:
                await asyncio.sleep(0.02)
        os.kill(pid, signal.SIGTERM)
        await until_gone(pid)
        assert not stream.done()
        assert await stream == answer("twice", 7, 220)


async def test_sigterm_lets_running_answers_end_and_exits_with_0() -> None:
    async with running("tiny=slow") as daemon:
        stream = asyncio.create_task(read(daemon, "last words"))
        workers = [await daemon.busy_worker()]
        daemon.process.send_signal(signal.SIGTERM)
        await daemon.until_status(503)
        (refused,) = [chunk async for chunk in daemon.chunks("too late")]
        assert refused["status"] == 503
        assert await stream == answer("last words", 7, TOKENS)
        assert await daemon.exit_code() == 0
        await until_gone(*workers)


async def test_answers_that_outlast_the_shutdown_timeout_end_with_an_error() -> None:
    async with running("tiny=slow", "--shutdown-timeout", "0.3") as daemon:
        chunks = []
        async for chunk in daemon.chunks("endless", max_tokens=4000):
            chunks.append(chunk)
            if len(chunks) == 3:
                daemon.process.send_signal(signal.SIGINT)
        assert "error" in chunks[-1]
        assert await daemon.exit_code() == 0


async def test_a_second_signal_ends_at_once_with_all_workers() -> None:
    async with running("tiny=slow") as daemon:
        stream = asyncio.create_task(read(daemon, "never heard", 4000))
        pid = await daemon.busy_worker()
        daemon.process.send_signal(signal.SIGTERM)
        await daemon.until_status(503)
        daemon.process.send_signal(signal.SIGTERM)
        assert await daemon.exit_code() == 1
        await until_gone(pid)
        await asyncio.gather(stream, return_exceptions=True)


@pytest.mark.skipif(not Path("/proc").exists(), reason="the kernel's death signal is Linux's")
async def test_workers_do_not_outlive_a_killed_daemon() -> None:
    async with running("tiny=slow", "--workers-per-model", "2") as daemon:
        pids = [worker["pid"] for worker in await daemon.workers()]
        daemon.process.kill()
        await until_gone(*pids)


async def test_a_model_that_cannot_be_loaded_ends_serve_with_its_reason() -> None:
    code, _, error = await run_command("serve", "--port", "0", "--log-level", "error", "cannot-load")
    assert code == 1
    assert error.splitlines()[0] == "glimpsed worker: cannot load 'cannot-load': there is no config.json"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--port", "http"], "glimpsed serve: --port: Input should be a valid integer"),
        (["--dtype", "int3"], "glimpsed worker: --dtype: Input should be 'auto'"),
        (["a=x", "a=y"], "glimpsed serve: MODEL: two models would be served as 'a'"),
        (["--no-such-flag"], "glimpsed: unrecognized arguments: --no-such-flag"),
        (["--queue", "carrier-pigeon"], "glimpsed serve: --queue: neither local, "),
    ],
)
async def test_bad_settings_end_with_2_and_one_line(arguments: list[str], line: str) -> None:
    port = [] if "--port" in arguments else ["--port", "0"]
    code, _, error = await run_command("serve", "--log-level", "error", *port, *arguments)
    assert code == 2
    assert error.startswith(line) and len(error.splitlines()) == 1


async def test_a_port_that_is_taken_ends_with_1_and_its_address() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        code, _, error = await run_command("serve", "--port", str(port), "tiny=slow")
    assert code == 1
    assert error.splitlines() == [f"glimpsed serve: cannot listen on 127.0.0.1:{port}: Address already in use"]
