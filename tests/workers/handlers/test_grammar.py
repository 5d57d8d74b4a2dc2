"""Jobs under a grammar from end to end of a worker: choices, takeovers, refusals before anything is accepted."""

import json
from collections.abc import AsyncIterator

import msgspec
import pytest

from schemas.errors import ErrorCode, RequestError
from schemas.events import Accepted, Delta, Event, Finished
from schemas.jobs import ChatJob, CompletionJob, EmittedChoice, Message, TextPart
from schemas.sampling import Grammar, SamplingParams
from tests.e2e.goldens import LEAN
from workers.handlers.base import JobHandler
from workers.handlers.open import open_handler
from workers.settings import WorkerSettings

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 999}, "s": {"type": "string", "maxLength": 9}},
    "required": ["n", "s"],
    "additionalProperties": False,
}
GRAMMAR = Grammar("json_schema", json.dumps(SCHEMA), "response_format.json_schema.schema")
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(params=["internvl2_5-qwen2", "internvl2-internlm2"])
async def handler(request: pytest.FixtureRequest) -> AsyncIterator[JobHandler]:
    settings = WorkerSettings(model=str(LEAN / request.param / "checkpoint"), device="cpu", num_kv_blocks=100)
    opened = await open_handler(settings)
    yield opened
    await opened.close()


def chat(n: int = 1, grammar: Grammar = GRAMMAR) -> ChatJob:
    sampling = SamplingParams(seed=11, temperature=1.0, max_tokens=200, grammar=grammar)
    return ChatJob(job_id="j", model="m", messages=(Message("user", (TextPart("Hi"),)),), sampling=sampling, n=n)


async def events_of(handler: JobHandler, job: ChatJob | CompletionJob) -> list[Event]:
    events: list[Event] = []
    await handler.run(job, events.append)
    return events


def answers(events: list[Event]) -> dict[int, tuple[str, list[int], str | None]]:
    """Text, token ids and finish reason of each choice."""
    found: dict[int, tuple[str, list[int], str | None]] = {}
    for event in events:
        if isinstance(event, Delta):
            text, ids, _ = found.get(event.index, ("", [], None))
            found[event.index] = (text + event.text, [*ids, *event.token_ids], event.finish_reason)
    return found


async def test_jobs_under_a_grammar_are_answered_taken_over_and_refused(handler: JobHandler) -> None:
    whole = await events_of(handler, chat(n=3))
    assert isinstance(whole[0], Accepted) and isinstance(whole[-1], Finished)
    undisturbed = answers(whole)
    assert len(undisturbed) == 3 and len({text for text, _, _ in undisturbed.values()}) > 1
    for text, _, reason in undisturbed.values():
        assert reason == "stop"
        assert set(json.loads(text)) == {"n", "s"}

    # The first choice is done, the second half done, the third not begun when the worker is lost.
    half = len(undisturbed[1][1]) // 2
    emitted = (
        EmittedChoice(0, tuple(undisturbed[0][1]), is_finished=True),
        EmittedChoice(1, tuple(undisturbed[1][1][:half])),
    )
    resumed = answers(await events_of(handler, msgspec.structs.replace(chat(n=3), epoch=1, emitted=emitted)))
    assert 0 not in resumed
    assert resumed[2] == undisturbed[2]
    assert resumed[1][1] == undisturbed[1][1][half:]
    assert undisturbed[1][0].endswith(resumed[1][0]) and resumed[1][2] == "stop"

    published: list[Event] = []
    with pytest.raises(RequestError) as caught:
        await handler.run(chat(grammar=Grammar("json_schema", '{"not": {}}', "guided_json")), published.append)
    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_VALUE, "guided_json")
    assert published == []

    bare = CompletionJob(
        job_id="c", model="m", prompt="Hi", sampling=chat(grammar=Grammar("choice", '[" a ."]')).sampling
    )
    assert answers(await events_of(handler, bare))[0][0] == " a ."
    assert handler.stats().kv_usage == 0
