"""Ways to talk to a gateway in tests: in memory message by message, by httpx, or over a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.types import Message

from server.app import create_app
from server.http_crowd import Crowd
from server.http_protocol import HttpPatience
from server.serving import Server, http_config, listen
from tests.fakes.memory_queue import MemoryQueue

CHAT = "/v1/chat/completions"


def ask(text: str = "hello", **parameters: Any) -> dict[str, Any]:
    """A chat request's body."""
    return {"model": "demo", "messages": [{"role": "user", "content": text}], **parameters}


@asynccontextmanager
async def running(queue: MemoryQueue, **options: Any) -> AsyncIterator[FastAPI]:
    """A started gateway."""
    app = create_app(queue, **options)
    async with app.router.lifespan_context(app):
        yield app


@asynccontextmanager
async def client_of(queue: MemoryQueue, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of a started gateway; whole answers only."""
    async with running(queue, **options) as app:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            yield client


@asynccontextmanager
async def listening(
    queue: MemoryQueue, crowd: Crowd | None = None, patience: HttpPatience | None = None, **options: Any
) -> AsyncIterator[tuple[str, int]]:
    """The host and port of a gateway that really listens."""
    config = http_config(create_app(queue, **options), crowd if crowd is not None else Crowd(1000, 1000), patience)
    config.load()
    server = Server(config)
    server.lifespan = config.lifespan_class(config)
    listener = listen("127.0.0.1", 0)
    await server.startup(sockets=[listener])
    try:
        yield listener.getsockname()
    finally:
        await server.shutdown(sockets=[listener])


class Exchange:
    """One request, message by message: a client that can pause, refuse to read, or leave."""

    def __init__(self, app: FastAPI, body: dict[str, Any], *, reads: bool = True, path: str = CHAT) -> None:
        self._scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [(b"content-type", b"application/json")], "http_version": "1.1", "root_path": "",
        }  # fmt: skip
        self._request: asyncio.Queue[Message] = asyncio.Queue()
        self._request.put_nowait({"type": "http.request", "body": json.dumps(body).encode()})
        self._answer: asyncio.Queue[Message] = asyncio.Queue()
        self._reads = reads
        self.served = asyncio.create_task(app(self._scope, self._request.get, self._send))

    async def __aenter__(self) -> "Exchange":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.served.cancel()
        with suppress(asyncio.CancelledError):
            await self.served

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not self._reads:
            await asyncio.Event().wait()
        self._answer.put_nowait(message)

    def leave(self) -> None:
        """Close the connection."""
        self._request.put_nowait({"type": "http.disconnect"})

    async def status(self) -> int:
        """The answer's status, once it is sent."""
        status: int = (await self._answer.get())["status"]
        return status

    async def next_body(self) -> bytes:
        """The next piece of the answer's body."""
        body: bytes = (await self._answer.get())["body"]
        return body

    async def rest(self) -> bytes:
        """All of the answer's body that is still to come."""
        pieces = []
        while True:
            message = await self._answer.get()
            pieces.append(message["body"])
            if not message.get("more_body"):
                return b"".join(pieces)


def chunks_of(stream: bytes | str) -> list[dict[str, Any]]:
    """The JSON objects of an event stream, without comments and [DONE]."""
    text = stream.decode() if isinstance(stream, bytes) else stream
    data = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in data if line != "[DONE]"]


def text_of(chunks: list[dict[str, Any]], index: int = 0) -> str:
    """The text that the chunks give a choice."""
    choices = [choice for chunk in chunks for choice in chunk.get("choices", ()) if choice["index"] == index]
    return "".join(choice["delta"].get("content", "") for choice in choices)
