"""Batches by OpenAI's own client, against a worker that plays a script."""

import asyncio
import contextlib
import io
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from schemas.events import Event, Failed
from schemas.jobs import BACKGROUND_PRIORITY, ChatJob
from server.app import GatewayLimits
from server.batches.build import BatchLimits
from tests.fakes.memory_queue import MemoryQueue, tell
from tests.server.batches.rig import (
    CHAT,
    answer_of,
    client_of,
    content,
    jsonl,
    line,
    sdk,
    submit,
    submit_file,
    until,
)
from tests.server.serving import listening


async def scripted(job: ChatJob) -> AsyncGenerator[Event, None]:
    """Says "a cat sat", fails on "fail", and waits for ever on "wait"."""
    text = job.messages[0].parts[0].text  # type: ignore[union-attr]
    if "wait" in text:
        await asyncio.Event().wait()
    if "fail" in text:
        yield Failed(job_id=job.job_id, epoch=0, seq=0, code="image_parse_error", message="Broken.", param="x")
        return
    async for event in tell("a cat sat")(job):
        yield event


async def test_a_batch_of_chats_ends_with_an_answer_for_each_line(tmp_path: Path) -> None:
    queue = MemoryQueue(tell("a cat sat"))
    async with sdk(queue, tmp_path) as client:
        batch = await submit(client, [line("one"), line("two", priority=-5), line("three", temperature=0)])
        assert (batch.status, batch.object, batch.endpoint) == ("validating", "batch", CHAT)
        assert batch.expires_at == batch.created_at + 24 * 3600
        batch = await until(client, batch.id)
        outputs = await content(client, batch.output_file_id)
        output_file = await client.files.retrieve(str(batch.output_file_id))
    assert (batch.status, batch.model, batch.error_file_id, batch.errors) == ("completed", "demo", None, None)
    assert batch.request_counts is not None and batch.usage is not None
    assert batch.request_counts.to_dict() == {"total": 3, "completed": 3, "failed": 0}
    assert (batch.usage.input_tokens, batch.usage.output_tokens, batch.usage.total_tokens) == (21, 9, 30)
    assert batch.usage.input_tokens_details.cached_tokens == 9
    times = (batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert None not in times and list(times) == sorted(times)  # type: ignore[type-var]
    assert (batch.cancelled_at, batch.expired_at, batch.failed_at) == (None, None, None)
    assert [one["custom_id"] for one in outputs] == ["one", "two", "three"]
    assert [answer_of(one) for one in outputs] == ["a cat sat"] * 3
    assert {one["response"]["body"]["object"] for one in outputs} == {"chat.completion"}
    assert all(one["error"] is None and one["response"]["status_code"] == 200 for one in outputs)
    for names in ([one["id"] for one in outputs], [one["response"]["request_id"] for one in outputs]):
        assert len(set(names)) == 3
    assert (output_file.purpose, output_file.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert {job.priority for job in queue.submitted} == {BACKGROUND_PRIORITY}


async def test_errors_of_lines_have_a_file_of_their_own(tmp_path: Path) -> None:
    lines = [line("good"), line("bad", temperature=9), line("broken", "fail"), line("also good")]
    async with sdk(MemoryQueue(scripted), tmp_path) as client:
        batch = await until(client, (await submit(client, lines)).id)
        outputs = await content(client, batch.output_file_id)
        errors = await content(client, batch.error_file_id)
    assert batch.status == "completed" and batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 4, "completed": 2, "failed": 2}
    assert [one["custom_id"] for one in outputs] == ["good", "also good"]
    assert [(one["custom_id"], one["response"]["status_code"], one["error"]) for one in errors] == [
        ("bad", 400, None),
        ("broken", 400, None),
    ]
    found = [one["response"]["body"]["error"] for one in errors]
    assert [(error["code"], error["param"]) for error in found] == [
        ("invalid_value", "temperature"),
        ("image_parse_error", "x"),
    ]


async def test_a_batch_of_errors_alone_has_no_output_file(tmp_path: Path) -> None:
    async with sdk(MemoryQueue(scripted), tmp_path) as client:
        batch = await until(client, (await submit(client, [line("bad", n=0)])).id)
    assert (batch.status, batch.output_file_id) == ("completed", None)
    assert batch.error_file_id is not None


async def test_completions_and_responses_have_batches_too(tmp_path: Path) -> None:
    completion = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/completions",
        "body": {"model": "demo", "prompt": "x"},
    }
    response = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"model": "demo", "input": "x"}}
    async with sdk(MemoryQueue(tell("a cat")), tmp_path) as client:
        for one, kind in ((completion, "text_completion"), (response, "response")):
            batch = await until(client, (await submit(client, [one], one["url"])).id)
            (output,) = await content(client, batch.output_file_id)
            assert output["response"]["body"]["object"] == kind
            assert batch.usage is not None and (batch.usage.input_tokens, batch.usage.output_tokens) == (7, 2)


async def test_a_line_is_no_response_of_the_background(tmp_path: Path) -> None:
    queue = MemoryQueue(tell("x"))
    body = {"model": "demo", "input": "x", "background": True}
    async with sdk(queue, tmp_path) as client:
        line_of_it = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": body}
        batch = await until(client, (await submit(client, [line_of_it], "/v1/responses")).id)
        (error,) = await content(client, batch.error_file_id)
        assert error["response"]["status_code"] == 400
        assert error["response"]["body"]["error"]["param"] == "background"
    assert queue.submitted == []


async def test_a_file_with_faults_fails_the_batch_before_anything_is_run(tmp_path: Path) -> None:
    queue = MemoryQueue(tell("x"))
    async with sdk(queue, tmp_path) as client:
        lines = jsonl([line("a"), line("a"), line("b", url="/v1/embeddings")]) + b"\xff\n"
        batch = await until(client, (await submit(client, lines)).id)
        assert batch.status == "failed" and batch.errors is not None and batch.errors.data is not None
        assert [(error.line, error.code) for error in batch.errors.data] == [
            (2, "duplicate_custom_id"),
            (3, "url_mismatch"),
            (4, "invalid_json_line"),
        ]
        assert batch.failed_at is not None and batch.output_file_id is None and batch.error_file_id is None
        unknown = await until(client, (await submit(client, [line("a", model="nope")])).id)
        assert unknown.errors is not None and unknown.errors.data is not None
        assert [(error.line, error.code) for error in unknown.errors.data] == [(1, "model_not_found")]
    assert queue.submitted == []


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"endpoint": "/v1/files"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
        ({"input_file_id": "../../etc/passwd"}, "input_file_id"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_bad_order_is_refused_by_name(tmp_path: Path, parameters: dict[str, Any], param: str) -> None:
    async with sdk(MemoryQueue(tell("x")), tmp_path) as client:
        file = await client.files.create(file=("a", jsonl([line("a")])), purpose="batch")
        body = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **parameters}
        with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refusal:
            await client.post("/batches", body=body, cast_to=httpx.Response)
    assert refusal.value.param == param


async def test_metadata_comes_back_and_output_cannot_be_an_input(tmp_path: Path) -> None:
    async with sdk(MemoryQueue(tell("x")), tmp_path) as client:
        file = await client.files.create(file=("a", jsonl([line("a")])), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"night": "Märchen"},
            output_expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert batch.metadata == {"night": "Märchen"}
        batch = await until(client, batch.id)
        output = await client.files.retrieve(str(batch.output_file_id))
        assert output.expires_at == output.created_at + 3600
        with pytest.raises(openai.BadRequestError) as refusal:
            await client.batches.create(
                input_file_id=output.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        assert refusal.value.param == "input_file_id"


async def test_a_cancelled_batch_keeps_what_was_answered(tmp_path: Path) -> None:
    queue = MemoryQueue(scripted)
    async with sdk(queue, tmp_path) as client:
        batch = await submit(client, [line("done"), line("failed", n=0), line("stuck", "wait"), line("too", "wait")])
        async with asyncio.timeout(20):
            while (await client.batches.retrieve(batch.id)).request_counts.to_dict() != {  # type: ignore[union-attr]
                "total": 4, "completed": 1, "failed": 1,
            }:  # fmt: skip
                await asyncio.sleep(0.01)
        with pytest.raises(openai.BadRequestError):
            await client.files.delete(batch.input_file_id)
        cancelling = await client.batches.cancel(batch.id)
        assert cancelling.status == "cancelling" and cancelling.cancelling_at is not None
        batch = await until(client, batch.id)
        assert batch.status == "cancelled" and batch.cancelled_at is not None
        assert (await client.batches.cancel(batch.id)).status == "cancelled"
        outputs, errors = await content(client, batch.output_file_id), await content(client, batch.error_file_id)
        await client.files.delete(batch.input_file_id)
    assert [one["custom_id"] for one in outputs] == ["done"]
    assert [one["custom_id"] for one in errors] == ["failed"]
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 4, "completed": 1, "failed": 1}
    stuck = {job.job_id for job in queue.submitted if "wait" in job.messages[0].parts[0].text}
    assert set(queue.cancelled) == stuck and len(stuck) == 2


async def test_a_batch_that_has_ended_cannot_be_cancelled(tmp_path: Path) -> None:
    async with sdk(MemoryQueue(tell("x")), tmp_path) as client:
        batch = await until(client, (await submit(client, [line("a")])).id)
        with pytest.raises(openai.BadRequestError, match="completed"):
            await client.batches.cancel(batch.id)
        with pytest.raises(openai.NotFoundError):
            await client.batches.cancel("batch_0")


async def test_lists_of_batches_come_in_pages_the_newest_first(tmp_path: Path) -> None:
    async with sdk(MemoryQueue(scripted), tmp_path) as client:
        made = sorted([(await submit(client, [line("a", "wait")])).id for _ in range(5)], reverse=True)
        assert [batch.id async for batch in client.batches.list(limit=2)] == made
        page = await client.batches.list(after=made[1], limit=2)
        assert [batch.id for batch in page.data] == made[2:4] and page.has_more
        for limit in (0, 101):
            with pytest.raises(openai.BadRequestError):
                await client.batches.list(limit=limit)


async def test_a_key_sees_its_own_batches_only(tmp_path: Path) -> None:
    keys = ("sk-first", "sk-second")
    queue = MemoryQueue(tell("x"))
    async with listening(queue, api_keys=keys, data_dir=tmp_path) as (host, port):
        url = f"http://{host}:{port}/v1"
        async with client_of(url, keys[0]) as first, client_of(url, keys[1]) as second:
            batch = await until(first, (await submit(first, [line("a")])).id)
            for ask in (second.batches.retrieve, second.batches.cancel):
                with pytest.raises(openai.NotFoundError):
                    await ask(batch.id)
            for file_id in (batch.input_file_id, str(batch.output_file_id)):
                with pytest.raises(openai.NotFoundError):
                    await second.files.retrieve(file_id)
                with pytest.raises(openai.NotFoundError):
                    await submit_file(second, file_id)
            assert [one async for one in second.batches.list()] == []
            own = await until(second, (await submit(second, [line("b")])).id)
            assert [one.id async for one in second.batches.list()] == [own.id]
    tenants = [job.tenant for job in queue.submitted]
    assert len(set(tenants)) == 2 and all(tenants)


async def test_only_so_many_batches_of_a_key_run_and_are_remembered(tmp_path: Path) -> None:
    limits = GatewayLimits(batches=BatchLimits(max_tenant_batches=2))
    async with sdk(MemoryQueue(scripted), tmp_path, limits=limits) as client:
        stuck = await submit(client, [line("a", "wait")])
        ended = await until(client, (await submit(client, [line("a")])).id)
        other = await submit(client, [line("a", "wait")])
        with pytest.raises(openai.NotFoundError):
            await client.batches.retrieve(ended.id)
        with pytest.raises(openai.RateLimitError):
            await submit(client, [line("a")])
        assert {batch.id async for batch in client.batches.list()} == {stuck.id, other.id}


async def test_the_readmes_example_makes_a_batch(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    (example,) = [
        block for block in re.findall(r"^```python\n(.*?)^```", readme, re.DOTALL | re.M) if "batches" in block
    ]
    queue = MemoryQueue(tell("a cat"), models=("glimpsed-demo",))
    async with listening(queue, data_dir=tmp_path) as (host, port):
        code = compile(example.replace("127.0.0.1:8000", f"{host}:{port}"), "README.md", "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            await asyncio.to_thread(exec, code, {})
        async with client_of(f"http://{host}:{port}/v1") as client:
            (batch,) = [one async for one in client.batches.list()]
            outputs = await content(client, (await until(client, batch.id)).output_file_id)
    assert printed.getvalue().strip() in ("validating", "in_progress", "finalizing", "completed")
    assert [(one["custom_id"], answer_of(one)) for one in outputs] == [("0", "a cat"), ("1", "a cat")]


async def test_metrics_tell_batches_and_lines(tmp_path: Path) -> None:
    async with listening(MemoryQueue(scripted), data_dir=tmp_path) as (host, port):
        async with client_of(f"http://{host}:{port}/v1") as client:
            await until(client, (await submit(client, [line("a"), line("b", n=0)])).id)
            await until(client, (await submit(client, b"{")).id)
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False) as plain:
            text = (await plain.get("/metrics")).text
    for sample in (
        'glimpsed_batches_total{status="validating"} 2.0',
        'glimpsed_batches_total{status="completed"} 1.0',
        'glimpsed_batches_total{status="failed"} 1.0',
        'glimpsed_batches_total{status="expired"} 0.0',
        'glimpsed_batch_lines_total{outcome="completed"} 1.0',
        'glimpsed_batch_lines_total{outcome="failed"} 1.0',
        "glimpsed_batch_lines_running 0.0",
    ):
        assert sample in text
