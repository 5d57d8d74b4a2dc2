"""Batches on a daemon: killed in the middle, told to leave in the middle, and with a picture on the demo model."""

import asyncio
import base64
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import openai

from tests.e2e.scripted import PATIENCE_S, Daemon, running
from tests.e2e.served import serve
from tests.fakes.scripted_backend import answer
from tests.server.batches.rig import CHAT, answer_of, client_of, content, submit

NUM_LINES = 40
TOKENS = 10
ROOT = Path(__file__).parents[2]


def prompt(number: int) -> str:
    return f"tell me {number}"


def lines() -> list[dict[str, Any]]:
    return [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": CHAT,
            "body": {
                "model": "tiny",
                "messages": [{"role": "user", "content": prompt(number)}],
                "seed": 7,
                "max_tokens": TOKENS,
            },
        }
        for number in range(NUM_LINES)
    ]


def arguments(folder: Path) -> list[str]:
    return ["tiny=slow", "--data-dir", str(folder), "--batch-concurrency", "4"]


def sdk(daemon: Daemon) -> Any:
    return client_of(f"{str(daemon.client.base_url).rstrip('/')}/v1")


async def until_answered(client: openai.AsyncOpenAI, batch_id: str, num_lines: int) -> openai.types.Batch:
    """The batch, once so many lines have their answer."""
    async with asyncio.timeout(4 * PATIENCE_S):
        while True:
            batch = await client.batches.retrieve(batch_id)
            assert batch.request_counts is not None
            if batch.request_counts.completed >= num_lines:
                return batch
            await asyncio.sleep(0.05)


def answered(folder: Path) -> dict[str, str]:
    """The ids that the answers on the disk have, by custom_id."""
    connection = sqlite3.connect(folder / "glimpsed.sqlite3")
    try:
        found = connection.execute("SELECT custom_id, answer FROM lines WHERE outcome IS NOT NULL").fetchall()
    finally:
        connection.close()
    return {custom_id: json.loads(output)["id"] for custom_id, output in found}


async def check_end(folder: Path, batch_id: str, kept: dict[str, str]) -> None:
    """A new daemon brings the batch to its end: each line once, in order, exact, and the kept ones as they were."""
    async with running(*arguments(folder)) as daemon, sdk(daemon) as client:
        await until_answered(client, batch_id, NUM_LINES)
        async with asyncio.timeout(PATIENCE_S):
            while (batch := await client.batches.retrieve(batch_id)).status != "completed":
                await asyncio.sleep(0.05)
        outputs = await content(client, batch.output_file_id)
        assert batch.error_file_id is None and batch.request_counts is not None
        assert batch.request_counts.to_dict() == {"total": NUM_LINES, "completed": NUM_LINES, "failed": 0}
    assert [one["custom_id"] for one in outputs] == [f"line-{number}" for number in range(NUM_LINES)]
    assert [answer_of(one) for one in outputs] == [answer(prompt(number), 7, TOKENS) for number in range(NUM_LINES)]
    assert kept.items() <= {one["custom_id"]: one["id"] for one in outputs}.items()
    assert len({one["id"] for one in outputs}) == NUM_LINES


async def test_a_daemon_that_is_killed_in_the_middle_of_a_batch_loses_no_line(tmp_path: Path) -> None:
    async with running(*arguments(tmp_path)) as daemon, sdk(daemon) as client:
        batch = await submit(client, lines())
        await until_answered(client, batch.id, 6)
        daemon.process.kill()
        await daemon.exit_code()
    kept = answered(tmp_path)
    assert 6 <= len(kept) < NUM_LINES
    await check_end(tmp_path, batch.id, kept)


async def test_a_daemon_that_is_told_to_leave_does_not_wait_for_a_batch(tmp_path: Path) -> None:
    async with running(*arguments(tmp_path)) as daemon, sdk(daemon) as client:
        batch = await submit(client, lines())
        await until_answered(client, batch.id, 2)
        daemon.process.terminate()
        assert await daemon.exit_code() == 0
    kept = answered(tmp_path)
    assert 2 <= len(kept) < NUM_LINES
    await check_end(tmp_path, batch.id, kept)


def test_the_demo_model_answers_a_batch_with_a_picture(tmp_path: Path) -> None:
    picture = base64.b64encode((ROOT / "docs/examples/shapes.png").read_bytes()).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        {"type": "text", "text": "How many shapes are there?"},
    ]
    asked: dict[str, Any] = {
        "picture": parts,
        "local": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}],
    }
    bodies: dict[str, Any] = {
        name: {"model": "glimpsed-demo", "messages": [{"role": "user", "content": parts}], "temperature": 0}
        for name, parts in asked.items()
    }
    requests = [
        json.dumps({"custom_id": name, "method": "POST", "url": CHAT, "body": body}) for name, body in bodies.items()
    ]
    with serve(["--data-dir", str(tmp_path)]) as daemon:
        client = daemon.client()
        live = client.chat.completions.create(**bodies["picture"])
        file = client.files.create(file=("a.jsonl", "\n".join(requests).encode()), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        deadline = time.monotonic() + 60
        while batch.status != "completed" and time.monotonic() < deadline:
            time.sleep(0.1)
            batch = client.batches.retrieve(batch.id)
        assert batch.status == "completed", batch
        output = json.loads(client.files.content(str(batch.output_file_id)).text)
        error = json.loads(client.files.content(str(batch.error_file_id)).text)
    assert output["custom_id"] == "picture"
    assert answer_of(output) == live.choices[0].message.content
    assert output["response"]["body"]["usage"]["prompt_tokens_details"]["image_tokens"] > 0
    assert error["response"]["body"]["error"]["code"] == "invalid_image_url"
