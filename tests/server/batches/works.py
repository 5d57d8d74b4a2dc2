"""Batches without a gateway round them: the real store and the real work, over an application that a test scripts."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from schemas.openai.batches import BatchRequest
from server.batches.build import BatchLimits, build_batches
from server.batches.keeper import Batches
from server.batches.records import BatchRecord
from server.files.database import Database
from server.files.store import FileLimits, FileStore
from server.fleet import Fleet
from tests.fakes.clock import Clock
from tests.fakes.memory_queue import MemoryQueue, tell
from tests.server.batches.rig import CHAT, PATIENCE_S, jsonl, until_true

Answer = Callable[[dict[str, Any]], Awaitable[Response]]


async def answer_ok(body: dict[str, Any]) -> Response:
    """A chat's answer that repeats the question."""
    usage = {"prompt_tokens": 2, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 1}}
    return JSONResponse({"said": body["messages"][0]["content"], "usage": usage})


class Works:
    """One life of the store and of the batches in it; `asked` is what the application was asked, line by line."""

    def __init__(self, folder: Path, answer: Answer, clock: Clock, database: Database | None = None) -> None:
        self.queue = MemoryQueue(tell("x"))
        self.fleet = Fleet(self.queue)
        self.database = database or Database(folder)
        self.files = FileStore(self.database, FileLimits(), clock)
        self.registry = CollectorRegistry()
        self.asked: list[str] = []
        self.batches: Batches = build_batches(
            self.database, self.files, self.fleet, self._app, self.registry,
            BatchLimits(max_running_lines=4, retry_s=0.0), 1024 * 1024, clock,
        )  # fmt: skip
        self._answer = answer

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert (scope["path"], scope["method"], scope["state"]["tenant"]) == (CHAT, "POST", "me")
        body = json.loads(await Request(scope, receive).body())
        self.asked.append(body["messages"][0]["content"])
        await (await self._answer(body))(scope, receive, send)

    async def submit(self, lines: list[dict[str, Any]]) -> str:
        """A new batch's id."""
        async with self.files.upload("me") as draft:
            await draft.write(jsonl(lines))
            await draft.finish()
            file = self.files.record(draft, "me", "input", "batch", None)
            await self.files.keep(draft, file)
        wanted = BatchRequest(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        return (await self.batches.create("me", wanted)).id

    async def until(self, batch_id: str, *statuses: str) -> BatchRecord:
        """The batch, once it is in one of these statuses."""
        async with asyncio.timeout(PATIENCE_S):
            while (batch := await self.batches.get(batch_id, "me")).status not in statuses:
                await asyncio.sleep(0.005)
        return batch

    async def until_ended(self, batch_id: str) -> BatchRecord:
        """The batch at its end, without a look into the database before."""
        await until_true(lambda: batch_id not in self.batches)
        return await self.batches.get(batch_id, "me")

    async def lines_of(self, file_id: str | None) -> list[dict[str, Any]]:
        """What is in a file; nothing, if there is none."""
        if file_id is None:
            return []
        await self.files.get(file_id, "me")
        return [json.loads(one) for one in self.files.path(file_id).read_text().splitlines()]

    def metric(self, name: str, **labels: str) -> float:
        """A figure."""
        return self.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def works(
    folder: Path, answer: Answer = answer_ok, clock: Clock | None = None, database: Database | None = None
) -> AsyncIterator[Works]:
    """Batches that are looked after. Left, they are broken off as the end of a process breaks them off."""
    life = Works(folder, answer, clock or Clock(1_700_000_000.0), database)
    await life.database.open()
    await life.files.open()
    keeper = asyncio.create_task(life.batches.run())
    try:
        yield life
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await life.database.close()
