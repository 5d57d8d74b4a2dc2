"""From a chat request to a job."""

from typing import Any

import pytest

from schemas.control import ModelCard
from schemas.errors import RequestError
from schemas.jobs import ChatJob, ImagePart, MediaOptions, Message, TextPart, VideoPart
from schemas.openai.chat import parse_chat_request
from server.submit import MAX_BYTES_PER_TOKEN, JobMaker

CARD = ModelCard(name="demo", max_model_len=100, created=0)
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png", "detail": "low"}}
VIDEO = {"type": "video_url", "video_url": {"url": "https://example.org/cat.mp4"}}


def job_of(messages: list[dict[str, Any]] | None = None, **parameters: Any) -> ChatJob:
    body = {"model": "demo", "messages": messages or [{"role": "user", "content": "hello"}], **parameters}
    maker = JobMaker(max_images=2, max_videos=1, timeout_s=60.0)
    return maker.chat_job(parse_chat_request(body), "tenant", CARD)


def test_parts_keep_their_order_and_know_their_place_in_the_body() -> None:
    content = [{"type": "text", "text": "one"}, IMAGE, {"type": "text", "text": "two"}, VIDEO]
    job = job_of([{"role": "system", "content": "be kind"}, {"role": "user", "content": content}])
    assert job.messages == (
        Message("system", (TextPart("be kind"),)),
        Message(
            "user",
            (
                TextPart("one"),
                ImagePart("https://example.org/cat.png", "messages.1.content.1.image_url.url", "low"),
                TextPart("two"),
                VideoPart("https://example.org/cat.mp4", "messages.1.content.3.video_url.url"),
            ),
        ),
    )


def test_what_the_client_leaves_out_is_left_to_the_model() -> None:
    job = job_of()
    sampling = job.sampling
    assert {sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_tokens} == {None}
    assert (job.n, job.priority, job.tenant, job.timeout_s, job.media) == (1, 0, "tenant", 60.0, MediaOptions())
    assert job.add_generation_prompt
    assert sampling.skip_special_tokens


def test_an_explicit_zero_is_not_the_models_default() -> None:
    sampling = job_of(min_tokens=0, temperature=0, top_k=0, min_p=0).sampling
    assert (sampling.min_tokens, sampling.temperature, sampling.top_k, sampling.min_p) == (0, 0, 0, 0)


def test_every_parameter_reaches_the_worker() -> None:
    job = job_of(
        n=2, max_completion_tokens=9, top_k=-1, repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=-0.5,
        logit_bias={"7": -100}, logprobs=True, top_logprobs=3, stop="END", stop_token_ids=[2], ignore_eos=True,
        bad_words=["damn", "two words"], include_stop_str_in_output=True, skip_special_tokens=False, priority=-3,
        cache_salt="salt", add_generation_prompt=False, return_token_ids=True,
    )  # fmt: skip
    sampling = job.sampling
    assert (job.n, job.priority, job.cache_salt) == (2, -3, "salt")
    assert (job.add_generation_prompt, job.return_token_ids) == (False, True)
    assert (sampling.max_tokens, sampling.top_k, sampling.repetition_penalty) == (9, 0, 1.5)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.logit_bias) == (0.5, -0.5, {7: -100})
    assert (sampling.logprobs, sampling.top_logprobs) == (True, 3)
    assert sampling.bad_words == ("damn", "two words")
    assert (sampling.stop, sampling.stop_token_ids, sampling.include_stop_str_in_output) == (("END",), (2,), True)
    assert (sampling.ignore_eos, sampling.skip_special_tokens) == (True, False)


def test_seeds_are_taken_modulo_two_to_the_64_and_drawn_when_absent() -> None:
    assert job_of(seed=-1).sampling.seed == job_of(seed=2**64 - 1).sampling.seed == 2**64 - 1
    assert len({job_of().sampling.seed for _ in range(8)}) == 8


def test_job_ids_are_long_and_never_repeat() -> None:
    ids = {job_of().job_id for _ in range(8)}
    assert len(ids) == 8
    assert all(len(job_id) == 32 for job_id in ids)


def test_media_options_are_joined_and_other_scalars_kept_for_the_family() -> None:
    job = job_of(
        mm_processor_kwargs={"max_dynamic_patch": 4, "min_dynamic_patch": 1, "use_thumbnail": False, "hd_num": 6},
        media_io_kwargs={
            "video": {"num_frames": 8, "fps": 2, "start": 1, "end": 3},
            "image": {"exif_transpose": False},
        },
    )
    assert job.media == MediaOptions(
        max_dynamic_patch=4, min_dynamic_patch=1, use_thumbnail=False, exif_transpose=False, num_frames=8, fps=2.0,
        start_s=1.0, end_s=3.0, family={"hd_num": 6},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"mm_processor_kwargs": {"hd_num": [1.5]}}, "mm_processor_kwargs.hd_num"),
        ({"mm_processor_kwargs": {"hd_num": {"a": 1}}}, "mm_processor_kwargs.hd_num"),
        ({"mm_processor_kwargs": {"hd_num": 2**80}}, "mm_processor_kwargs.hd_num"),
        ({"mm_processor_kwargs": {"not a name": 1}}, "mm_processor_kwargs.not a name"),
        ({"mm_processor_kwargs": {"instruction": "x" * 5000}}, "mm_processor_kwargs.instruction"),
        ({"mm_processor_kwargs": {f"name_{i}": 1 for i in range(17)}}, "mm_processor_kwargs"),
        (
            {"mm_processor_kwargs": {"min_dynamic_patch": 5, "max_dynamic_patch": 4}},
            "mm_processor_kwargs.min_dynamic_patch",
        ),
        ({"media_io_kwargs": {"video": {"start": 3, "end": 3}}}, "media_io_kwargs.video.end"),
    ],
)
def test_media_options_that_make_no_sense_are_refused(parameters: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as refusal:
        job_of(**parameters)
    assert refusal.value.param == param


@pytest.mark.parametrize(
    ("messages", "param", "code"),
    [
        ([{"role": "user", "content": ""}], "messages.0.content", "invalid_value"),
        ([{"role": "user", "content": [{"type": "text", "text": ""}]}], "messages.0.content", "invalid_value"),
        ([{"role": "user"}], "messages.0.content", "missing_required_parameter"),
        ([{"role": "system", "content": None}], "messages.0.content", "missing_required_parameter"),
        ([{"role": "system", "content": [IMAGE]}], "messages.0.content.0.image_url.url", "invalid_value"),
        ([{"role": "assistant", "content": [VIDEO]}], "messages.0.content.0.video_url.url", "invalid_value"),
        ([{"role": "tool", "content": "4", "tool_call_id": "x"}], "messages.0.role", "invalid_value"),
        (
            [{"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}],
            "messages.0.tool_calls.0.type",
            "missing_required_parameter",
        ),
        ([{"role": "user", "content": [IMAGE] * 3}], "messages.0.content.2.image_url.url", "too_many_images"),
        (
            [{"role": "user", "content": [VIDEO]}, {"role": "user", "content": [IMAGE, VIDEO]}],
            "messages.1.content.1.video_url.url",
            "too_many_videos",
        ),
        (
            [{"role": "user", "content": "x" * (CARD.max_model_len * MAX_BYTES_PER_TOKEN + 1)}],
            "messages",
            "context_length_exceeded",
        ),
    ],
)
def test_messages_that_cannot_be_served_are_refused_by_path(
    messages: list[dict[str, Any]], param: str, code: str
) -> None:
    with pytest.raises(RequestError) as refusal:
        job_of(messages)
    assert (refusal.value.param, refusal.value.code) == (param, code)
