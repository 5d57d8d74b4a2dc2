"""The answer to a request that does not stream."""

from collections.abc import AsyncGenerator

import msgspec

from schemas.events import Delta, Event, TokenLogprob
from schemas.jobs import ChatJob
from tests.fakes.memory_queue import MemoryQueue, Teller, tell
from tests.server.serving import CHAT, ask, client_of


async def answer_of(script: object, **parameters: object) -> dict[str, object]:
    async with client_of(MemoryQueue(script)) as client:  # type: ignore[arg-type]
        answer = await client.post(CHAT, json=ask(**parameters))
    assert answer.status_code == 200
    body: dict[str, object] = answer.json()
    return body


async def test_deltas_become_one_message_with_its_usage() -> None:
    answer = await answer_of(tell("a cat sat"))
    assert (answer["object"], answer["model"]) == ("chat.completion", "demo")
    assert str(answer["id"]).startswith("chatcmpl-")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "a cat sat", "refusal": None},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 3, "image_tokens": 0, "video_tokens": 0},
    }
    assert "prompt_token_ids" not in answer


async def test_token_ids_come_when_asked_for() -> None:
    answer = await answer_of(tell("a cat"), return_token_ids=True, n=2)
    assert answer["prompt_token_ids"] == list(range(7))
    assert [choice["token_ids"] for choice in answer["choices"]] == [[0, 1], [0, 1]]  # type: ignore[index, attr-defined]


async def test_image_tokens_are_counted_apart() -> None:
    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        yield teller.accepted(prompt_tokens=300, image_tokens=256)
        for delta in teller.words("a cat"):
            yield delta
        yield teller.finished()

    usage = (await answer_of(script))["usage"]
    assert usage["prompt_tokens_details"]["image_tokens"] == 256  # type: ignore[index]


async def test_logprobs_of_all_deltas_are_joined() -> None:
    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        async for event in tell("a cat")(job):
            if isinstance(event, Delta):
                event = msgspec.structs.replace(event, logprobs=(TokenLogprob(event.text, event.text.encode(), -1.0),))
            yield event

    answer = await answer_of(script, logprobs=True)
    content = answer["choices"][0]["logprobs"]["content"]  # type: ignore[index]
    assert [(one["token"], one["logprob"], one["top_logprobs"]) for one in content] == [
        ("a ", -1.0, []),
        ("cat", -1.0, []),
    ]
