"""The fake engine's answers are those computed beforehand; a job taken over wrongly goes on wrongly."""

import asyncio

import msgspec
import pytest

from benchmarks.chaos.fake_engine import FakeHandler, right_answer, text_of
from schemas.events import Accepted, Delta, Event, Finished
from schemas.jobs import ChatJob, EmittedChoice
from tests.fakes.messages import chat_job

PROMPT = "tell me"
RIGHT = right_answer(PROMPT, seed=0, num_tokens=8, num_choices=2)


def job(*emitted: tuple[int, ...]) -> ChatJob:
    choices = tuple(EmittedChoice(index, token_ids) for index, token_ids in enumerate(emitted))
    return msgspec.structs.replace(chat_job("job", text=PROMPT), n=2, emitted=choices)


async def play(asked: ChatJob) -> list[Event]:
    handler = FakeHandler("fake", token_s=0.0, prefill_s=0.0)
    events: list[Event] = []
    await handler.run(asked, events.append)
    assert handler.stats().kv_usage == 0
    return events


def ids_of(events: list[Event], index: int) -> tuple[int, ...]:
    deltas = [event for event in events if isinstance(event, Delta) and event.index == index]
    return tuple(token_id for delta in deltas for token_id in delta.token_ids)


async def test_an_undisturbed_answer_is_the_computed_one() -> None:
    accepted, *deltas, finished = await play(job())
    assert isinstance(accepted, Accepted) and accepted.prompt_tokens == RIGHT.prompt_tokens
    assert isinstance(finished, Finished) and finished.completion_tokens == RIGHT.completion_tokens == 16
    for index, choice in enumerate(RIGHT.choices):
        assert ids_of(deltas, index) == choice.token_ids
        assert "".join(map(text_of, choice.token_ids)) == choice.text
    assert RIGHT.choices[0].token_ids != RIGHT.choices[1].token_ids


@pytest.mark.parametrize("place", [1, 7])
async def test_a_job_that_is_taken_over_goes_on_exactly(place: int) -> None:
    first, second = (choice.token_ids for choice in RIGHT.choices)
    events = await play(job(first[:place], second[: place - 1]))
    assert ids_of(events, 0) == first[place:]
    assert ids_of(events, 1) == second[place - 1 :]
    assert [event.start for event in events if isinstance(event, Delta) and event.index == 0][0] == place


async def test_a_job_that_is_taken_over_with_a_wrong_token_goes_on_wrongly() -> None:
    first = RIGHT.choices[0].token_ids
    wrong = (*first[:3], first[3] ^ 1)
    assert ids_of(await play(job(wrong)), 0) != first[4:]


async def test_a_cancelled_job_gives_its_pages_back() -> None:
    handler = FakeHandler("fake", token_s=0.0, prefill_s=0.0)
    begun = asyncio.Event()

    def publish(event: Event) -> None:
        if isinstance(event, Delta):
            begun.set()

    task = asyncio.create_task(handler.run(job(), publish))
    await begun.wait()
    assert handler.stats().kv_usage > 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert handler.stats().kv_usage == 0
