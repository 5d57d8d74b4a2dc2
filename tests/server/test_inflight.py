"""What a client gets when workers die, repeat themselves, skip, hang or never come."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from schemas.events import Delta, Event, Failed
from schemas.jobs import ChatJob
from server.app import GatewayLimits
from server.transport.base import JobLost
from tests.fakes.memory_queue import MemoryQueue, Script, Teller, WorkerDied, tell, worker
from tests.server.serving import CHAT, Exchange, ask, chunks_of, client_of, running, text_of

TEXT = "a cat sat on the mat"
NUM_WORDS = 6


def tell_and_die(num_events: int, last_epoch: int = 0) -> Script:
    """Tells TEXT, but in its first epochs the worker dies after this many events."""

    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        count = 0
        async for event in tell(TEXT)(job):
            if job.epoch <= last_epoch and count == num_events:
                raise WorkerDied
            count += 1
            yield event

    return script


async def hang(job: ChatJob) -> AsyncGenerator[Event, None]:
    yield Teller(job).accepted()
    await asyncio.Event().wait()


async def never_answer(job: ChatJob) -> AsyncGenerator[Event, None]:
    await asyncio.Event().wait()
    yield Teller(job).accepted()


@pytest.mark.parametrize("num_events", range(NUM_WORDS + 2))
async def test_a_stream_goes_on_exactly_where_the_lost_worker_stopped(num_events: int) -> None:
    async with client_of(MemoryQueue(tell(TEXT))) as client:
        undisturbed = await client.post(CHAT, json=ask(stream=True, return_token_ids=True, seed=1))
    queue = MemoryQueue(tell_and_die(num_events))
    async with client_of(queue) as client:
        disturbed = await client.post(CHAT, json=ask(stream=True, return_token_ids=True, seed=1))
    assert disturbed.text.endswith("data: [DONE]\n\n")
    choices = [[chunk["choices"] for chunk in chunks_of(one.text)] for one in (disturbed, undisturbed)]
    assert choices[0] == choices[1]
    assert [job.epoch for job in queue.submitted] == [0, 1]


async def test_a_resumed_job_carries_what_the_client_has_and_the_same_seed() -> None:
    queue = MemoryQueue(tell_and_die(3))
    async with client_of(queue) as client:
        await client.post(CHAT, json=ask())
    first, second = queue.submitted
    assert [(choice.index, choice.token_ids, choice.is_finished) for choice in second.emitted] == [(0, (0, 1), False)]
    assert (second.job_id, second.sampling, second.epoch) == (first.job_id, first.sampling, 1)
    assert second.timeout_s < first.timeout_s


async def test_each_of_several_choices_goes_on_behind_its_own_tokens() -> None:
    queue = MemoryQueue(tell_and_die(1 + NUM_WORDS + 2))
    async with client_of(queue) as client:
        answer = (await client.post(CHAT, json=ask(n=3))).json()
    assert [choice["message"]["content"] for choice in answer["choices"]] == [TEXT] * 3
    assert [(one.index, len(one.token_ids), one.is_finished) for one in queue.submitted[1].emitted] == [
        (0, NUM_WORDS, True),
        (1, 2, False),
    ]


async def test_a_job_that_was_with_two_lost_workers_is_failed_and_not_tried_again() -> None:
    queue = MemoryQueue(tell_and_die(0, last_epoch=9))
    async with client_of(queue) as client:
        answer = await client.post(CHAT, json=ask())
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_error")
        assert len(queue.submitted) == 2
        queue.script = tell(TEXT)
        assert (await client.post(CHAT, json=ask())).status_code == 200


async def test_a_poisonous_stream_ends_with_an_error_event_and_without_done() -> None:
    async with client_of(MemoryQueue(tell_and_die(2, last_epoch=9))) as client:
        answer = await client.post(CHAT, json=ask(stream=True))
    assert answer.status_code == 200
    chunks = chunks_of(answer.text)
    assert chunks[-1]["error"]["code"] == "engine_error"
    assert text_of(chunks) == "a cat "
    assert "[DONE]" not in answer.text


async def test_events_of_a_worker_that_was_taken_for_lost_are_dropped_and_counted() -> None:
    zombies: list[Event] = []

    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        yield teller.accepted()
        deltas = teller.words(TEXT)
        if job.epoch == 0:
            yield deltas[0]
            zombies.extend(deltas[1:])
            raise WorkerDied
        for zombie in zombies:
            queue.publish(zombie)
        for delta in deltas:
            yield delta
        yield teller.finished()

    queue = MemoryQueue(script)
    async with client_of(queue) as client:
        answer = (await client.post(CHAT, json=ask())).json()
        assert answer["choices"][0]["message"]["content"] == TEXT
        assert f"glimpsed_stale_events_total {NUM_WORDS - 1}.0" in (await client.get("/metrics")).text


async def test_a_repeated_event_is_given_once() -> None:
    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        async for event in tell(TEXT)(job):
            yield event
            yield event

    async with client_of(MemoryQueue(script)) as client:
        answer = (await client.post(CHAT, json=ask())).json()
    assert answer["choices"][0]["message"]["content"] == TEXT


@pytest.mark.parametrize("fault", ["seq", "start", "index", "unaccepted", "unfinished"])
async def test_events_that_do_not_continue_the_stream_make_the_gateway_take_the_job_back(fault: str) -> None:
    def head(job: ChatJob, seq: int) -> dict[str, object]:
        return {"job_id": job.job_id, "epoch": job.epoch, "seq": seq}

    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        if job.epoch > 0:
            async for event in tell(TEXT)(job):
                yield event
            return
        accepted = teller.accepted()
        if fault != "unaccepted":
            yield accepted
        if fault == "unfinished":
            yield teller.finished()
        yield Delta(
            **head(job, {"seq": 2, "unaccepted": 0}.get(fault, 1)),  # type: ignore[arg-type]
            index=1 if fault == "index" else 0,
            start=1 if fault == "start" else 0,
            token_ids=(0,),
            text="wrong",
        )
        await asyncio.Event().wait()

    queue = MemoryQueue(script)
    async with client_of(queue) as client:
        answer = (await client.post(CHAT, json=ask())).json()
    assert answer["choices"][0]["message"]["content"] == TEXT
    assert queue.cancelled == [queue.submitted[0].job_id]


async def test_a_failure_before_acceptance_is_an_ordinary_error_answer_also_for_streams() -> None:
    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        yield Failed(
            job_id=job.job_id, epoch=0, seq=0, code="image_too_large", message="Too large.", param="messages.0"
        )

    async with client_of(MemoryQueue(script)) as client:
        for stream in (False, True):
            answer = await client.post(CHAT, json=ask(stream=stream))
            assert answer.status_code == 400
            assert answer.json()["error"] == {
                "message": "Too large.",
                "type": "invalid_request_error",
                "param": "messages.0",
                "code": "image_too_large",
            }


async def test_an_error_code_that_nobody_knows_is_an_engine_error() -> None:
    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        yield Failed(job_id=job.job_id, epoch=0, seq=0, code="wonderful", message="It failed.")

    async with client_of(MemoryQueue(script)) as client:
        answer = await client.post(CHAT, json=ask())
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_error")


async def test_the_deadline_ends_a_request_that_nobody_serves_and_cancels_its_job() -> None:
    queue = MemoryQueue(never_answer)
    async with client_of(queue, limits=GatewayLimits(request_timeout_s=0.01)) as client:
        answer = await client.post(CHAT, json=ask())
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert queue.cancelled == [queue.submitted[0].job_id]


async def test_the_deadline_ends_a_running_stream_with_an_error_event() -> None:
    async with client_of(MemoryQueue(hang), limits=GatewayLimits(request_timeout_s=0.01)) as client:
        answer = await client.post(CHAT, json=ask(stream=True))
    assert chunks_of(answer.text)[-1]["error"]["code"] == "deadline_exceeded"
    assert "[DONE]" not in answer.text


async def test_a_job_waits_for_a_worker_of_an_expected_model() -> None:
    queue = MemoryQueue(tell(TEXT), models=())
    async with running(queue, expected_models=["demo"]) as app, Exchange(app, ask()) as exchange:
        while not queue.submitted:
            await asyncio.sleep(0)
        queue.fleet.append(worker("demo"))
        queue.hand_out()
        assert await exchange.status() == 200


async def test_a_model_whose_worker_died_is_still_known() -> None:
    queue = MemoryQueue(tell(TEXT))
    async with running(queue) as app:
        async with Exchange(app, ask()) as exchange:
            assert await exchange.status() == 200
        queue.fleet.clear()
        async with Exchange(app, ask()) as exchange:
            while len(queue.submitted) < 2:
                await asyncio.sleep(0)
            queue.fleet.append(worker("demo"))
            queue.hand_out()
            assert await exchange.status() == 200


async def test_no_worker_until_the_deadline_is_said_so() -> None:
    queue = MemoryQueue(tell(TEXT), models=())
    limits = GatewayLimits(request_timeout_s=0.01)
    async with client_of(queue, expected_models=["demo"], limits=limits) as client:
        answer = await client.post(CHAT, json=ask())
    assert answer.status_code == 504
    assert answer.json()["error"]["message"] == "No worker for this model came in time."


async def test_a_client_that_leaves_cancels_its_job_at_once() -> None:
    queue = MemoryQueue(hang)
    async with running(queue) as app, Exchange(app, ask(stream=True)) as exchange:
        assert await exchange.status() == 200
        await exchange.next_body()
        exchange.leave()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert queue.cancelled == [queue.submitted[0].job_id]
        await exchange.served


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_while_its_job_waits_cancels_it(stream: bool) -> None:
    queue = MemoryQueue(never_answer)
    async with running(queue) as app, Exchange(app, ask(stream=stream)) as exchange:
        while not queue.submitted:
            await asyncio.sleep(0)
        exchange.leave()
        await exchange.served
        assert queue.cancelled == [queue.submitted[0].job_id]


async def test_a_lost_job_whose_client_left_is_not_submitted_again() -> None:
    queue = MemoryQueue(hang)
    async with running(queue) as app:
        async with Exchange(app, ask(stream=True)) as exchange:
            assert await exchange.status() == 200
            exchange.leave()
            await exchange.served
        queue.publish_lost(JobLost(queue.submitted[0].job_id, 0, "worker-demo"))
        async with Exchange(app, ask(stream=True)) as exchange:
            assert await exchange.status() == 200
    assert len({job.job_id for job in queue.submitted}) == len(queue.submitted) == 2


async def test_when_the_queue_ends_what_is_in_flight_fails_and_the_gateway_is_not_ready() -> None:
    queue = MemoryQueue(hang)
    async with running(queue) as app, Exchange(app, ask(stream=True)) as exchange:
        assert await exchange.status() == 200
        await queue.close()
        assert chunks_of(await exchange.rest())[-1]["error"]["code"] == "service_unavailable"
        assert not app.state.fleet.is_ready()
        async with Exchange(app, ask()) as later:
            assert await later.status() == 503


async def test_the_text_of_an_accepted_job_reaches_only_its_own_client() -> None:
    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        async for event in tell(job.messages[0].parts[0].text)(job):  # type: ignore[union-attr]
            await asyncio.sleep(0)
            yield event

    async with client_of(MemoryQueue(script)) as client:
        texts = [f"secret {number} of {number}" for number in range(20)]
        answers = await asyncio.gather(*(client.post(CHAT, json=ask(text)) for text in texts))
    assert [answer.json()["choices"][0]["message"]["content"] for answer in answers] == texts
