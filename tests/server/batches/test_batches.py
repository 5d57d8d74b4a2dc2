"""Batches by OpenAI's own client, against a worker that plays a script."""

from pathlib import Path

from schemas.jobs import BACKGROUND_PRIORITY
from tests.fakes.memory_queue import MemoryQueue, tell
from tests.server.batches.rig import answer_of, content, line, sdk, submit, until


async def test_a_batch_of_chats_ends_with_an_answer_for_each_line(tmp_path: Path) -> None:
    queue = MemoryQueue(tell("a cat sat"))
    async with sdk(queue, tmp_path) as client:
        batch = await submit(client, [line("one"), line("two", priority=-5), line("three", temperature=0)])
        assert (batch.status, batch.object, batch.endpoint) == ("validating", "batch", "/v1/chat/completions")
        assert batch.expires_at == batch.created_at + 24 * 3600
        batch = await until(client, batch.id)
        assert batch.status == "completed", batch
        outputs = await content(client, batch.output_file_id)
    assert batch.error_file_id is None and batch.errors is None
    assert batch.request_counts is not None and batch.request_counts.to_dict() == {"total": 3, "completed": 3, "failed": 0}
    assert [one["custom_id"] for one in outputs] == ["one", "two", "three"]
    assert [answer_of(one) for one in outputs] == ["a cat sat"] * 3
    assert {job.priority for job in queue.submitted} == {BACKGROUND_PRIORITY}
