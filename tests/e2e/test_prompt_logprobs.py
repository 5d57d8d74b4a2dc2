"""Log probabilities of prompts over HTTP: vLLM's prompt_logprobs, and completions' echo with logprobs."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from schemas.jobs import CompletionJob, EmittedChoice
from schemas.sampling import SamplingParams
from tests.e2e.goldens import LEAN
from tests.e2e.in_process import Opened, open_checkpoint
from tests.e2e.test_requests import SMALL_PNG, image
from tests.server.serving import chunks_of

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def opened() -> Iterator[Opened]:
    with open_checkpoint(LEAN / "internvl2_5-qwen2" / "checkpoint") as found:
        yield found


def answers(opened: Opened, path: str, *bodies: dict[str, Any]) -> list[dict[str, Any]]:
    replies = opened.post(path, *bodies)
    assert [reply.status_code for reply in replies] == [200] * len(bodies), [reply.text for reply in replies]
    return [reply.json() for reply in replies]


def assert_well_formed(told: list[dict[str, Any] | None], token_ids: list[int], count: int) -> None:
    assert told[0] is None and len(told) == len(token_ids)
    for token_id, found in zip(token_ids[1:], told[1:], strict=True):
        assert found is not None
        own = found[str(token_id)]
        assert len(found) == count + (own["rank"] > count)
        ranked = sorted(found.values(), key=lambda one: one["rank"])
        assert [one["rank"] for one in ranked[:count]] == list(range(1, count + 1))
        values = [one["logprob"] for one in ranked]
        assert values == sorted(values, reverse=True) and values[0] <= 0


@pytest.mark.parametrize("count", [0, 3])
def test_a_chat_with_a_picture_tells_them_afresh_each_time(opened: Opened, count: int) -> None:
    content = [image("data:image/png;base64," + SMALL_PNG), {"type": "text", "text": "What is this?"}]
    plain = {"messages": [{"role": "user", "content": content}], "seed": 3, "max_tokens": 5, "return_token_ids": True}
    without, first, again = answers(
        opened,
        "chat/completions",
        plain,
        plain | {"prompt_logprobs": count, "n": 2},
        plain | {"prompt_logprobs": count},
    )
    assert "prompt_logprobs" not in without
    assert_well_formed(first["prompt_logprobs"], first["prompt_token_ids"], count)
    for ours, theirs in zip(first["prompt_logprobs"][1:], again["prompt_logprobs"][1:], strict=True):
        assert {name: one["logprob"] for name, one in ours.items()} == pytest.approx(
            {name: one["logprob"] for name, one in theirs.items()}, abs=1e-4
        )
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert first["choices"][0]["token_ids"] == without["choices"][0]["token_ids"]


def test_an_answer_is_as_likely_in_a_prompt_as_when_it_was_generated(opened: Opened) -> None:
    asked = {"prompt": "One, two", "seed": 5, "max_tokens": 12, "logprobs": 2, "return_token_ids": True}
    answer = answers(opened, "completions", asked)[0]["choices"][0]
    whole = [*answer["prompt_token_ids"], *answer["token_ids"]]
    echoed = {"prompt": whole, "max_tokens": 1, "echo": True, "logprobs": 2, "prompt_logprobs": 1}
    reply = answers(opened, "completions", echoed)[0]["choices"][0]
    told, start = reply["logprobs"], len(answer["prompt_token_ids"])
    assert told["token_logprobs"][start:-1] == pytest.approx(answer["logprobs"]["token_logprobs"], abs=1e-3)
    assert told["tokens"][start:-1] == answer["logprobs"]["tokens"]
    assert_well_formed(reply["prompt_logprobs"], whole, 1)


def test_an_echo_begins_with_the_prompt_whole_and_in_a_stream(opened: Opened) -> None:
    asked = {"prompt": "One, two", "seed": 5, "max_tokens": 6, "logprobs": 2, "echo": True, "n": 2}
    whole, streamed = opened.post("completions", asked, asked | {"stream": True})
    pieces = [choice for chunk in chunks_of(streamed.text) for choice in chunk["choices"]]
    for choice in whole.json()["choices"]:
        told = choice["logprobs"]
        assert choice["text"].startswith("One, two")
        assert "".join(told["tokens"]).startswith("One, two")
        assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
        assert all(value <= 0 for value in told["token_logprobs"][1:])
        assert told["text_offset"] == [len("".join(told["tokens"][:at])) for at in range(len(told["tokens"]))]
        own = [piece for piece in pieces if piece["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in own) == choice["text"]
        for name in ("tokens", "text_offset"):
            assert [one for piece in own if piece["logprobs"] for one in piece["logprobs"][name]] == told[name]


def test_a_prompt_alone_can_be_told_without_a_single_token_behind_it(opened: Opened) -> None:
    asked = {"prompt": ["One, two", "Three"], "max_tokens": 0, "echo": True, "logprobs": 0, "n": 2}
    whole, streamed = opened.post("completions", asked, asked | {"stream": True})
    choices, usage = whole.json()["choices"], whole.json()["usage"]
    assert [choice["text"] for choice in choices] == ["One, two", "One, two", "Three", "Three"]
    assert [choice["finish_reason"] for choice in choices] == ["length"] * 4
    assert "".join(choices[0]["logprobs"]["tokens"]) == "One, two"
    assert usage["completion_tokens"] == 0
    assert usage["prompt_tokens"] == len(choices[0]["logprobs"]["tokens"]) + len(choices[2]["logprobs"]["tokens"])
    pieces = [choice for chunk in chunks_of(streamed.text) for choice in chunk["choices"]]
    assert [piece["finish_reason"] for piece in pieces if piece["index"] == 3] == [None, "length"]
    alone = answers(opened, "completions", {"prompt": "One", "max_tokens": 0, "prompt_logprobs": 1})[0]["choices"][0]
    assert (alone["text"], alone["prompt_logprobs"][0]) == ("", None)


def test_a_job_that_is_taken_over_is_told_again_only_what_its_client_does_not_have(opened: Opened) -> None:
    sampling = SamplingParams(seed=1, temperature=0.0, max_tokens=6, prompt_logprobs=2)
    job = CompletionJob(job_id="taken", model="demo", prompt="One, two", sampling=sampling)
    accepted, *deltas, _ = run(opened, job)
    token_ids = [token_id for delta in deltas for token_id in delta.token_ids]
    assert len(accepted.prompt_logprobs) == accepted.prompt_tokens
    untold, *again, _ = run(opened, msgspec.structs.replace(job, epoch=1))
    assert [len(told) for told in untold.prompt_logprobs] == [len(told) for told in accepted.prompt_logprobs]
    assert [token_id for delta in again for token_id in delta.token_ids] == token_ids
    emitted = (EmittedChoice(0, tuple(token_ids[:3])),)
    told, *rest, finished = run(opened, msgspec.structs.replace(job, epoch=2, emitted=emitted))
    assert told.prompt_logprobs is None and finished.completion_tokens == len(token_ids)
    assert [token_id for delta in rest for token_id in delta.token_ids] == token_ids[3:]


def run(opened: Opened, job: CompletionJob) -> list[Any]:
    events: list[Any] = []
    opened.runner.run(opened.handler.run(job, events.append))
    return events


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt_logprobs": 21},
        {"prompt_logprobs": -1},
        {"prompt_logprobs": True},
        {"prompt_logprobs": 1, "stream": True},
    ],
    ids=str,
)
def test_what_cannot_be_told_is_refused(opened: Opened, path: str, wrong: dict[str, Any]) -> None:
    prompt = {"prompt": "One"} if path == "completions" else {"messages": [{"role": "user", "content": "One"}]}
    reply = opened.post(path, prompt | wrong)[0]
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "prompt_logprobs")
