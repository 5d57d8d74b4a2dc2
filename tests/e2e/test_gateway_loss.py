"""Gateways as processes of one Redis, killed in mid-stream: their streams go on at another one, event by event."""

import asyncio
import contextlib
import json
import os
import signal
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.scripted import Daemon
from tests.e2e.test_redis import PATIENCE_S, cluster
from tests.fakes.redis_server import BINARY
from tests.fakes.scripted_backend import answer

pytestmark = [
    pytest.mark.redis,
    pytest.mark.skipif(not BINARY, reason="there is no redis-server and no valkey-server on this machine"),
    pytest.mark.timeout(400),
]
TOKENS = 150
"""At 20 ms each, a stream takes three seconds at least."""
PROMPT = "what is there"
CHAT = "/v1/chat/completions"


class Reader:
    """A client that comes back for what it has not seen, with the number of the last event that it has."""

    def __init__(self, path: str, key: str, body: dict[str, Any]) -> None:
        self.events: dict[int, str] = {}
        self.has_ended = False
        self._id: int | None = None
        self._path = path
        self._key = key
        self._body = {"model": "tiny", "stream": True, "seed": 7, **body}

    async def read(self, gateway: Daemon) -> None:
        """Until the stream's end, or until the connection breaks."""
        headers = {"idempotency-key": self._key}
        if self.events:
            headers["last-event-id"] = str(max(self.events))
        with contextlib.suppress(httpx.TransportError):
            async with gateway.client.stream("POST", self._path, json=self._body, headers=headers) as response:
                assert response.status_code == 200, await response.aread()
                async for line in response.aiter_lines():
                    self._read_line(line)

    def _read_line(self, line: str) -> None:
        name, _, value = line.partition(": ")
        if name == "id":
            assert int(value) == len(self.events), "an event again, or one left out"
            self._id = int(value)
        elif name == "data" and self._id is not None:
            self.events[self._id], self._id = value, None
            self.has_ended = value == "[DONE]" or '"type":"message_stop"' in value or "response.incomplete" in value

    async def until_begun(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.events) < 10:
                await asyncio.sleep(0.01)


def chat(prompt: str = PROMPT) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], "max_tokens": TOKENS}


BODIES = {
    CHAT: chat(),
    "/v1/completions": {"prompt": PROMPT, "max_tokens": TOKENS},
    "/v1/messages": chat(),
    "/v1/responses": {"input": PROMPT, "max_output_tokens": TOKENS},
}


def text_of(reader: Reader) -> str:
    """What a chat's events say; fails unless they are of one answer."""
    chunks = [json.loads(data) for _, data in sorted(reader.events.items()) if data != "[DONE]"]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


async def test_streams_of_a_killed_gateway_go_on_at_another_where_their_clients_stopped() -> None:
    async with cluster() as both:
        readers = [Reader(path, f"key-of-{path}", body) for path, body in BODIES.items()]
        reading = [asyncio.create_task(reader.read(both.gateways[0])) for reader in readers]
        for reader in readers:
            await reader.until_begun()
        both.gateways[0].process.kill()
        await asyncio.wait_for(asyncio.gather(*reading), PATIENCE_S)
        assert not any(reader.has_ended for reader in readers)
        beginners = [Reader(path, f"key-of-{path}", body) for path, body in BODIES.items()]
        again = [reader.read(both.gateways[1]) for reader in (*readers, *beginners)]
        await asyncio.wait_for(asyncio.gather(*again), PATIENCE_S)
        for reader, beginner in zip(readers, beginners, strict=True):
            assert reader.has_ended
            assert reader.events == beginner.events, "from the beginning it is the same stream"
        assert text_of(readers[0]) == answer(PROMPT, 7, TOKENS)
        other = Reader(CHAT, f"key-of-{CHAT}", chat("something else"))
        with pytest.raises(AssertionError, match="idempotency_key_reused"):
            await other.read(both.gateways[1])


async def test_a_stream_goes_on_when_worker_and_gateway_are_killed_and_then_the_next_gateway() -> None:
    async with cluster() as both:
        reader = Reader(CHAT, "key", chat())
        reading = asyncio.create_task(reader.read(both.gateways[0]))
        await reader.until_begun()
        os.kill(await both.gateways[1].busy_worker(), signal.SIGKILL)
        both.gateways[0].process.kill()
        await asyncio.wait_for(reading, PATIENCE_S)
        num_seen = len(reader.events)
        reading = asyncio.create_task(reader.read(both.gateways[1]))
        async with asyncio.timeout(PATIENCE_S):
            while len(reader.events) < num_seen + 10:
                await asyncio.sleep(0.01)
        both.gateways[1].process.kill()
        await asyncio.wait_for(reading, PATIENCE_S)
        assert not reader.has_ended
        await asyncio.wait_for(reader.read(await both.start_gateway()), PATIENCE_S)
        assert text_of(reader) == answer(PROMPT, 7, TOKENS)


async def test_a_response_of_the_background_goes_on_when_its_gateway_is_killed_by_openais_client() -> None:
    async with cluster() as both:
        clients = [
            openai.AsyncOpenAI(base_url=f"{gateway.client.base_url}/v1", api_key="unused", max_retries=0)
            for gateway in both.gateways
        ]
        async with clients[0] as dying, clients[1] as other:
            seed = {"seed": 7}
            stream = await dying.responses.create(
                model="tiny", input=PROMPT, max_output_tokens=TOKENS, background=True, stream=True, extra_body=seed
            )
            events = [await anext(stream) for _ in range(10)]
            response_id = events[0].response.id
            both.gateways[0].process.kill()
            with pytest.raises((openai.APIError, httpx.TransportError)):
                while True:
                    events.append(await anext(stream))
            assert (await other.responses.retrieve(response_id)).status == "in_progress"
            last = events[-1].sequence_number
            async for event in await other.responses.retrieve(response_id, stream=True, starting_after=last):
                events.append(event)
            assert [event.sequence_number for event in events] == list(range(len(events)))
            assert events[-1].response.output_text == answer(PROMPT, 7, TOKENS)
            assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == answer(
                PROMPT, 7, TOKENS
            )
            assert (await other.responses.retrieve(response_id)).to_dict() == events[-1].response.to_dict()
            running = await other.responses.create(
                model="tiny", input=PROMPT, max_output_tokens=TOKENS, background=True, extra_body=seed
            )
            assert (await other.responses.cancel(running.id)).status == "cancelled"
