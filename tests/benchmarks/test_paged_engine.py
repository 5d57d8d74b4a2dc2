"""The fake engine with real pages: what it finds again is what a worker would."""

import asyncio

import msgspec

from benchmarks.paged_engine import BLOCK_SIZE, PICTURE_TOKENS, PagedHandler, sequence_of
from schemas.events import Accepted, Delta, Event, Finished
from schemas.jobs import ChatJob, ImagePart, Message, TextPart
from schemas.sampling import SamplingParams

QUESTION = " ".join(f"q{number}" for number in range(5 * BLOCK_SIZE))


def said(role: str, *parts: str | ImagePart) -> Message:
    return Message(role=role, parts=tuple(TextPart(part) if isinstance(part, str) else part for part in parts))


def talk(*messages: Message) -> ChatJob:
    return ChatJob(job_id="a", model="w", messages=messages, sampling=SamplingParams(seed=0, max_tokens=2))


async def answered(handler: PagedHandler, job: ChatJob) -> tuple[Finished, str]:
    events: list[Event] = []
    await handler.run(job, events.append)
    assert isinstance(events[0], Accepted) and isinstance(events[-1], Finished)
    return events[-1], "".join(event.text for event in events if isinstance(event, Delta))


async def test_the_next_turn_finds_the_question_and_the_answer_before() -> None:
    handler = PagedHandler("w", num_blocks=32)
    first = talk(said("user", QUESTION))
    finished, text = await answered(handler, first)
    assert (finished.completion_tokens, finished.cached_tokens) == (2, 0)
    second = talk(*first.messages, said("assistant", text), said("user", "and then?"))
    before = sequence_of(first).num_tokens + len(text.split())
    finished, _ = await answered(handler, second)
    assert finished.cached_tokens == (before - 1) // BLOCK_SIZE * BLOCK_SIZE
    metrics = handler.stats().metrics
    assert metrics["fake_jobs_total"] == 2 and metrics["fake_cached_tokens_total"] == finished.cached_tokens


async def test_equal_placeholders_of_other_pictures_share_nothing() -> None:
    handler = PagedHandler("w", num_blocks=64)
    for name, cached in (("a", 0), ("b", 0), ("a", PICTURE_TOKENS)):
        job = talk(said("user", ImagePart(url=f"https://example.com/{name}.png", param=""), "what is it?"))
        assert (await answered(handler, job))[0].cached_tokens == cached


async def test_jobs_that_do_not_fit_together_wait_for_pages() -> None:
    handler = PagedHandler("w", num_blocks=8)
    jobs = [msgspec.structs.replace(talk(said("user", f"{name} {QUESTION}")), job_id=name) for name in "abc"]
    endings = await asyncio.gather(*(answered(handler, job) for job in jobs))
    assert [finished.completion_tokens for finished, _ in endings] == [2, 2, 2]
    assert handler.stats().kv_usage == 0
