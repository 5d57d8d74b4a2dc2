"""Clients that stream: each asks one question, writes down what comes, and may leave in the middle."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.chaos.history import History

TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Question:
    """A chat request. `extra`: more of its body. leaves_after: tokens after which the client closes the connection;
    None: never."""

    model: str
    content: Any
    seed: int
    max_tokens: int
    num_choices: int = 1
    extra: tuple[tuple[str, Any], ...] = ()
    leaves_after: int | None = None

    def body(self) -> dict[str, Any]:
        """As it is sent."""
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": self.content}],
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "n": self.num_choices,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            **dict(self.extra),
        }


class Trigger:
    """Set once a history has so many tokens: with 0, once its answer has begun; with less, as it is sent."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Until it is set."""
        await self._event.wait()

    def saw(self, history: History) -> None:
        """The history has grown, or ended."""
        num_tokens = history.num_tokens if history.has_begun else -1
        if history.is_over or self._num_tokens <= num_tokens:
            self._event.set()


@dataclass(slots=True)
class Asked:
    """A question on its way: its history grows while the task runs."""

    question: Question
    history: History
    task: "asyncio.Task[None]"


def ask(client: httpx.AsyncClient, question: Question, *triggers: Trigger) -> Asked:
    """Send a question. The triggers see its history grow, and end."""
    history = History()
    return Asked(question, history, asyncio.create_task(_read(client, question, history, triggers)))


async def _read(client: httpx.AsyncClient, question: Question, history: History, triggers: Sequence[Trigger]) -> None:
    """Returns at the stream's end, however it ends; what it lacks then, the checker sees."""

    def tell() -> None:
        for trigger in triggers:
            trigger.saw(history)

    history.stamps.append(time.monotonic())
    tell()
    try:
        async with client.stream("POST", "/v1/chat/completions", json=question.body(), timeout=TIMEOUT_S) as reply:
            if reply.status_code != 200:
                history.refused(_error(reply.status_code, await reply.aread()))
                return
            history.has_begun = True
            tell()
            async for line in reply.aiter_lines():
                history.take(line, time.monotonic())
                tell()
                if question.leaves_after is not None and history.num_tokens >= question.leaves_after:
                    history.has_left = not history.ends
                    return
    except httpx.TransportError:
        pass
    finally:
        history.is_over = True
        tell()


def _error(status: int, body: bytes) -> dict[str, Any]:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        error = {"message": "not an error of this API"}
    return {**error, "code": f"{status} {error.get('code')}"}


def clients(url: str) -> httpx.AsyncClient:
    """A client without a limit of connections, none of which is kept once it is idle."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=url, limits=limits, timeout=TIMEOUT_S)
