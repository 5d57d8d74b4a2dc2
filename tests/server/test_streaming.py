"""Streams as clients see them: frames and their order, keep-alives, clients that leave or do not read."""

import asyncio
import json
from collections.abc import AsyncGenerator

import msgspec

from schemas.events import Delta, Event, TokenLogprob, TopLogprob
from schemas.jobs import ChatJob
from server import job_stream
from server.app import GatewayLimits
from server.chat_frames import KEEP_ALIVE
from server.streaming import Patience
from tests.fakes.memory_queue import MemoryQueue, Teller, tell
from tests.server.serving import CHAT, Exchange, ask, chunks_of, client_of, running, text_of

TEXT = "a cat sat"


async def frames(script: object = None, **parameters: object) -> list[str]:
    async with client_of(MemoryQueue(script or tell(TEXT))) as client:  # type: ignore[arg-type]
        answer = await client.post(CHAT, json=ask(stream=True, **parameters))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    return [frame for frame in answer.text.split("\n\n") if frame]


async def test_role_first_then_a_chunk_a_delta_then_the_finish_then_done() -> None:
    lines = await frames()
    assert lines[-1] == "data: [DONE]"
    choices = [chunk["choices"][0] for chunk in chunks_of("\n\n".join(lines))]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert [choice["delta"] for choice in choices[1:]] == [
        {"content": "a "},
        {"content": "cat "},
        {"content": "sat"},
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None] * 4 + ["stop"]


async def test_all_chunks_of_a_stream_share_id_and_time_and_say_no_usage_unasked() -> None:
    chunks = chunks_of("\n\n".join(await frames()))
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
    assert not any("usage" in chunk for chunk in chunks)


async def test_the_usage_chunk_has_no_choices_and_comes_last() -> None:
    *others, last = chunks_of("\n\n".join(await frames(stream_options={"include_usage": True})))
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 3, "image_tokens": 0, "video_tokens": 0},
    }
    assert all(chunk["usage"] is None for chunk in others)


async def test_continuous_usage_counts_up() -> None:
    chunks = chunks_of("\n\n".join(await frames(stream_options={"continuous_usage_stats": True})))
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 2, 3, 3]


async def test_token_ids_come_with_every_chunk_and_the_prompts_with_the_first() -> None:
    chunks = chunks_of("\n\n".join(await frames(return_token_ids=True)))
    assert chunks[0]["prompt_token_ids"] == list(range(7))
    assert not any("prompt_token_ids" in chunk for chunk in chunks[1:])
    assert [chunk["choices"][0].get("token_ids") for chunk in chunks[1:]] == [[0], [1], [2], []]


async def test_choices_of_one_stream_are_told_apart_by_index() -> None:
    chunks = chunks_of("\n\n".join(await frames(n=3)))
    assert [text_of(chunks, index) for index in range(4)] == [TEXT, TEXT, TEXT, ""]
    roles = [chunk["choices"][0]["index"] for chunk in chunks if "role" in chunk["choices"][0]["delta"]]
    assert roles == [0, 1, 2]


async def test_a_delta_whose_text_is_withheld_makes_no_chunk() -> None:
    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        async for event in tell(TEXT)(job):
            yield msgspec.structs.replace(event, text="") if isinstance(event, Delta) and event.start == 0 else event

    chunks = chunks_of("\n\n".join(await frames(script)))
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["", "cat ", "sat", None]


async def test_logprobs_have_openais_shape_and_minus_infinity_is_a_number() -> None:
    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        yield teller.accepted()
        top = (TopLogprob("é", "é".encode(), -0.5), TopLogprob("x", b"x", float("-inf")))
        for delta in teller.words("é"):
            yield msgspec.structs.replace(delta, logprobs=(TokenLogprob("é", "é".encode(), -0.5, top),))
        yield teller.finished()

    chunks = chunks_of("\n\n".join(await frames(script, logprobs=True, top_logprobs=2)))
    assert chunks[1]["choices"][0]["logprobs"] == {
        "content": [
            {
                "token": "é",
                "logprob": -0.5,
                "bytes": [195, 169],
                "top_logprobs": [
                    {"token": "é", "logprob": -0.5, "bytes": [195, 169]},
                    {"token": "x", "logprob": -9999.0, "bytes": [120]},
                ],
            }
        ],
        "refusal": None,
    }


async def test_text_that_looks_like_a_frame_stays_text() -> None:
    text = 'data:\u00a0[DONE]\n\ndata:\u00a0{"error":1}\r\n\u2028'
    chunks = chunks_of("\n\n".join(await frames(tell(text))))
    assert text_of(chunks) == text


async def test_silence_is_filled_with_comments() -> None:
    go_on = asyncio.Event()

    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        yield teller.accepted()
        await go_on.wait()
        for delta in teller.words(TEXT):
            yield delta
        yield teller.finished()

    limits = GatewayLimits(patience=Patience(keep_alive_s=0.005))
    async with running(MemoryQueue(script), limits=limits) as app, Exchange(app, ask(stream=True)) as exchange:
        assert await exchange.status() == 200
        assert b'"role":"assistant"' in await exchange.next_body()
        assert await exchange.next_body() == KEEP_ALIVE
        assert await exchange.next_body() == KEEP_ALIVE
        go_on.set()
        rest = await exchange.rest()
    assert text_of(chunks_of(rest.replace(KEEP_ALIVE, b""))) == TEXT


async def test_deltas_that_wait_already_are_sent_at_once_as_separate_chunks() -> None:
    async with running(MemoryQueue(tell(TEXT))) as app, Exchange(app, ask(stream=True)) as exchange:
        assert await exchange.status() == 200
        chunks = chunks_of(await exchange.next_body())
    assert len(chunks) == 5
    assert text_of(chunks) == TEXT


async def test_a_client_that_does_not_read_is_dropped_and_its_job_cancelled() -> None:
    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        yield Teller(job).accepted()
        await asyncio.Event().wait()

    queue = MemoryQueue(script)
    limits = GatewayLimits(patience=Patience(stall_s=0.01))
    async with running(queue, limits=limits) as app:
        async with Exchange(app, ask(stream=True), reads=False) as exchange:
            assert await exchange.status() == 200
            await exchange.served
    assert queue.cancelled == [queue.submitted[0].job_id]


async def test_a_client_that_lags_too_far_behind_is_dropped() -> None:
    many = " ".join(["word"] * (job_stream.MAX_WAITING_EVENTS + 10))
    queue = MemoryQueue(tell(many))
    async with running(queue) as app, Exchange(app, ask(stream=True), reads=False) as exchange:
        assert await exchange.status() == 200
        await queue.was_cancelled.wait()
    assert queue.cancelled == [queue.submitted[0].job_id]


async def test_a_connection_that_breaks_while_sending_is_no_failure() -> None:
    queue = MemoryQueue(tell(TEXT))

    async def broken_send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.body":
            raise OSError("broken pipe")

    async def receive() -> dict[str, object]:
        if received:
            await asyncio.Event().wait()
        received.append(True)
        return {"type": "http.request", "body": json.dumps(ask(stream=True)).encode()}

    received: list[bool] = []
    scope = {
        "type": "http", "method": "POST", "path": CHAT, "raw_path": b"", "query_string": b"", "http_version": "1.1",
        "headers": [(b"content-type", b"application/json")], "root_path": "",
    }  # fmt: skip
    async with running(queue) as app:
        await app(scope, receive, broken_send)  # type: ignore[arg-type]
    assert len(queue.submitted) == 1
