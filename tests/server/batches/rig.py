"""A gateway that keeps batches, OpenAI's client for it, and short ways to write what goes into them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
from openai.types import Batch

from tests.fakes.memory_queue import MemoryQueue
from tests.server.serving import listening

CHAT = "/v1/chat/completions"
PATIENCE_S = 20.0


def line(custom_id: str, text: str = "hello", url: str = CHAT, **body: Any) -> dict[str, Any]:
    """One request of a batch."""
    messages = [{"role": "user", "content": text}]
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": url,
        "body": {"model": "demo", "messages": messages, **body},
    }


def jsonl(lines: Iterable[object]) -> bytes:
    """An input file."""
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


@asynccontextmanager
async def sdk(
    queue: MemoryQueue, folder: Path | None, api_key: str = "sk-test", **options: Any
) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client of a gateway that keeps its files in `folder`."""
    async with listening(queue, data_dir=folder, **options) as (host, port):
        async with client_of(f"http://{host}:{port}/v1", api_key) as client:
            yield client


@asynccontextmanager
async def client_of(base_url: str, api_key: str = "sk-test") -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client, which never tries again by itself."""
    http: Any = httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S)
    async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0, http_client=http) as client:
        yield client


async def submit(client: openai.AsyncOpenAI, lines: Iterable[object] | bytes, endpoint: Any = CHAT) -> Batch:
    """A new batch."""
    content = lines if isinstance(lines, bytes) else jsonl(lines)
    file = await client.files.create(file=("input.jsonl", content), purpose="batch")
    return await submit_file(client, file.id, endpoint)


async def submit_file(client: openai.AsyncOpenAI, file_id: str, endpoint: Any = CHAT) -> Batch:
    """A new batch of a file that is there."""
    return await client.batches.create(input_file_id=file_id, endpoint=endpoint, completion_window="24h")


async def until(client: openai.AsyncOpenAI, batch_id: str, *statuses: str) -> Batch:
    """The batch, once it is in one of these statuses; in any that is an end, if none is named."""
    wanted = statuses or ("completed", "failed", "expired", "cancelled")
    async with asyncio.timeout(PATIENCE_S):
        while (batch := await client.batches.retrieve(batch_id)).status not in wanted:
            await asyncio.sleep(0.01)
    return batch


async def until_true(condition: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def content(client: openai.AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of a file; none, if there is no file."""
    if file_id is None:
        return []
    text = (await client.files.content(file_id)).text
    assert text.endswith("\n")
    return [json.loads(one) for one in text.splitlines()]


def answer_of(output: dict[str, Any]) -> str:
    """The text of a chat's answer."""
    text: str = output["response"]["body"]["choices"][0]["message"]["content"]
    return text
