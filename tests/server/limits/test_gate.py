"""What waits for a model: estimates, the bound in tokens, the rate at which it drains; and priorities of keys."""

import asyncio
from collections.abc import AsyncGenerator

import msgspec
import pytest

from schemas.errors import Overloaded
from schemas.events import Accepted, Event
from schemas.jobs import ChatJob, CompletionJob, ImagePart, Message, TextPart, VideoPart
from schemas.sampling import SamplingParams
from server.app import GatewayLimits
from server.limits.backlog import Backlog
from server.limits.estimate import TOKENS_PER_CHAR, PromptEstimator, PromptSize, size_of
from server.limits.gate import Gate
from server.limits.key_limits import KeyLimits
from server.limits.rates import RateLimits
from tests.fakes.clock import Clock
from tests.fakes.memory_queue import MemoryQueue, Teller, tell
from tests.fakes.messages import MODEL, chat_job
from tests.server.serving import CHAT, ask, client_of


def gate(max_queue_tokens: int = 1000, clock: Clock | None = None, **limits: int) -> Gate:
    clock = clock or Clock()
    return Gate(
        lambda tenant: KeyLimits(**limits),
        RateLimits(lambda tenant: KeyLimits(**limits), clock),
        max_queue_tokens,
        clock,
    )


def accepted(prompt_tokens: int, image_tokens: int = 0) -> Accepted:
    return Accepted(job_id="a", epoch=0, seq=0, prompt_tokens=prompt_tokens, image_tokens=image_tokens)


def test_the_size_of_a_prompt_counts_text_pictures_clips_and_ids() -> None:
    parts = (TextPart("four"), ImagePart("data:", "p"), ImagePart("data:", "p"), VideoPart("data:", "p"))
    chat = ChatJob(job_id="a", model=MODEL, messages=(Message("user", parts),), sampling=SamplingParams(seed=0))
    assert size_of(chat) == PromptSize(num_chars=4, num_images=2, num_videos=1)
    for prompt, size in (("text", PromptSize(num_chars=4)), ((1, 2, 3), PromptSize(num_ids=3))):
        job = CompletionJob(job_id="a", model=MODEL, prompt=prompt, sampling=SamplingParams(seed=0))
        assert size_of(job) == size


def test_estimates_approach_what_workers_report() -> None:
    estimator = PromptEstimator()
    size = PromptSize(num_chars=1000, num_images=1)
    for _ in range(100):
        estimator.learn(MODEL, size, accepted(500 + 256, image_tokens=256))
    assert estimator.estimate(MODEL, size) == pytest.approx(756, rel=0.01)
    assert estimator.estimate("other", PromptSize(num_chars=1000)) == round(1000 * TOKENS_PER_CHAR)
    assert estimator.estimate(MODEL, PromptSize(num_ids=77)) == 77


def test_a_short_text_teaches_nothing_and_an_empty_one_is_one_token() -> None:
    estimator = PromptEstimator()
    estimator.learn(MODEL, PromptSize(num_chars=2), accepted(90))
    assert estimator.estimate(MODEL, PromptSize(num_chars=1000)) == 250
    assert estimator.estimate(MODEL, PromptSize()) == 1


def test_the_backlog_is_bounded_but_never_for_a_single_prompt() -> None:
    backlog = Backlog(MODEL, 100, Clock())
    backlog.add(5000)
    with pytest.raises(Overloaded, match="5000 tokens") as refusal:
        backlog.add(1)
    assert (refusal.value.code, refusal.value.retry_after_s) == ("queue_full", 1.0)
    backlog.take(5000)
    backlog.add(60)
    backlog.add(40)
    assert backlog.num_tokens == 100


def test_when_to_come_back_follows_the_measured_rate() -> None:
    clock = Clock()
    backlog = Backlog(MODEL, 1000, clock)
    for _ in range(10):
        backlog.add(100)
    for _ in range(5):
        clock.advance(2)
        backlog.take(100)
    assert backlog.tokens_per_s() == pytest.approx(50.0)
    assert backlog.retry_after_s(1000) == pytest.approx(500 / 50)
    clock.advance(3600)
    assert backlog.retry_after_s(1000) == 60.0, "nothing was taken for long"


def test_a_rate_is_that_of_a_server_with_something_to_do() -> None:
    clock = Clock()
    backlog = Backlog(MODEL, 10**6, clock)
    for _ in range(10):
        clock.advance(60)
        backlog.add(100)
        clock.advance(0.5)
        backlog.take(100)
    assert backlog.tokens_per_s() == pytest.approx(200.0)


def test_a_prompt_waits_for_those_of_its_priority_and_of_higher_ones() -> None:
    clock = Clock()
    backlog = Backlog(MODEL, 10**6, clock)
    assert backlog.wait_s(0) == 0.0
    for priority in (-1, 0, 0, 5):
        backlog.add(100, priority)
    clock.advance(1)
    backlog.take(100, 0)
    assert [backlog.wait_s(priority) for priority in (-2, -1, 0, 5)] == [0.0, 1.0, 2.0, 3.0]


def test_a_job_whose_turn_would_come_too_late_is_refused_at_once() -> None:
    clock = Clock()
    one = gate(max_queue_tokens=10**6, clock=clock)
    text = "x" * 400
    passages = [one.enter(chat_job(str(number), text=text)) for number in range(11)]
    clock.advance(1.0)
    passages[0].accepted(accepted(100))
    clock.advance(2.0)
    passages[0].leave(5)  # 100 tokens were taken in 3 s, and 1000 wait; an answer took 2 s, of which 0.2 count
    in_time = msgspec.structs.replace(chat_job("late", text=text), timeout_s=10.0)
    with pytest.raises(Overloaded, match="within its 10 s") as refusal:
        one.enter(in_time)
    assert refusal.value.retry_after_s == pytest.approx(30 - 0.8 * 9.8)
    one.enter(msgspec.structs.replace(in_time, timeout_s=60.0)).leave(0)
    one.enter(msgspec.structs.replace(in_time, priority=-1)).leave(0)
    for passage in passages[1:]:
        passage.leave(0)
    one.enter(in_time)


def test_all_that_was_entered_leaves_again_however_it_ends() -> None:
    one = gate(tokens_per_minute=1000)
    long = "x" * 800
    first, second = one.enter(chat_job("a", text=long)), one.enter(chat_job("b", text=long))
    first.accepted(accepted(300))
    first.accepted(accepted(300))
    first.leave(5)
    second.leave(0)
    assert one._backlogs[MODEL].num_tokens == 0
    assert dict(one._rates.headers(""))[b"x-ratelimit-remaining-tokens"] == b"695"


def test_a_job_that_its_key_cannot_afford_does_not_wait() -> None:
    one = gate(tokens_per_minute=10)
    one.enter(chat_job("a", text="x" * 400))
    with pytest.raises(Overloaded, match="tokens a minute"):
        one.enter(chat_job("b", text="x" * 400))
    assert one._backlogs[MODEL].num_tokens == 100


@pytest.mark.parametrize(("asked", "given"), [(-5, 10), (9, 10), (10, 10), (11, 11)])
def test_a_key_gets_no_sooner_a_turn_than_it_may(asked: int, given: int) -> None:
    assert gate(min_priority=10).admit(chat_job("a", priority=asked)).priority == given
    assert gate().admit(chat_job("a", priority=asked)).priority == asked


async def test_too_many_waiting_tokens_are_429_and_room_comes_back() -> None:
    go_on = asyncio.Event()

    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        await go_on.wait()
        async for event in tell("x")(job):
            yield event

    queue = MemoryQueue(script)
    async with client_of(queue, limits=GatewayLimits(max_queue_tokens=150)) as client:
        first = asyncio.create_task(client.post(CHAT, json=ask("x" * 400)))
        while not queue.submitted:
            await asyncio.sleep(0)
        refused = await client.post(CHAT, json=ask("x" * 400))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert refused.headers["retry-after"] == "1"
        assert len(queue.submitted) == 1
        assert 'glimpsed_queue_tokens{model="demo"} 100.0' in (await client.get("/metrics")).text
        go_on.set()
        assert (await first).status_code == 200
        assert (await client.post(CHAT, json=ask("x" * 400))).status_code == 200


async def test_accepted_prompts_do_not_wait_any_more() -> None:
    async def hang(job: ChatJob) -> AsyncGenerator[Event, None]:
        yield Teller(job).accepted()
        running.set()
        await asyncio.Event().wait()

    running = asyncio.Event()
    queue = MemoryQueue(hang)
    async with client_of(queue, limits=GatewayLimits(max_queue_tokens=150)) as client:
        tasks = []
        for _ in range(3):
            running.clear()
            tasks.append(asyncio.create_task(client.post(CHAT, json=ask("x" * 400))))
            await running.wait()
            await asyncio.sleep(0)
        assert len(queue.submitted) == 3
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
