"""A worker and a gateway in the test's own process, with nothing but a queue in memory between them."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from schemas.events import Event
from schemas.jobs import Job
from tests.fakes.memory_queue import MemoryQueue
from tests.server.serving import client_of
from workers.handlers.base import JobHandler
from workers.handlers.open import open_handler
from workers.settings import WorkerSettings
from workers.tokenizers.base import Tokenizer
from workers.tokenizers.load import load_tokenizer


@dataclass(frozen=True, slots=True)
class Opened:
    """A checkpoint that is served as `demo`, and the loop that it lives in."""

    handler: JobHandler
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    runner: asyncio.Runner

    def post(self, path: str, *bodies: dict[str, Any]) -> list[httpx.Response]:
        """The answers to some requests, one after the other."""
        return self.runner.run(self._post(path, bodies))

    async def _post(self, path: str, bodies: tuple[dict[str, Any], ...]) -> list[httpx.Response]:
        async with client_of(MemoryQueue(self._play)) as client:
            return [await client.post(f"/v1/{path}", json={"model": "demo", **body}) for body in bodies]

    async def _play(self, job: Job) -> AsyncGenerator[Event, None]:
        events: list[Event] = []
        await self.handler.run(job, events.append)
        for seq, event in enumerate(events):
            yield msgspec.structs.replace(event, seq=seq)


@contextmanager
def open_checkpoint(folder: Path) -> Iterator[Opened]:
    """Serve until the context is left."""
    tokenizer = load_tokenizer(folder)
    ends = {tokenizer.eos_token_id, tokenizer.token_id("<|im_end|>")}
    with asyncio.Runner() as runner:
        handler = runner.run(open_handler(WorkerSettings(model=str(folder), device="cpu", num_kv_blocks=200)))
        yield Opened(handler, tokenizer, frozenset(one for one in ends if one is not None), runner)
        runner.run(handler.close())
