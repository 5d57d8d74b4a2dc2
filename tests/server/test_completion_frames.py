"""Chunks that say nothing but text against the same chunks encoded as objects."""

import msgspec
import pytest

from schemas.events import Accepted, Delta
from schemas.jobs import CompletionJob
from schemas.openai.answers import Completion, CompletionChoice
from schemas.sampling import SamplingParams
from server.completion_frames import CompletionWriter

TEXTS = ['say "" twice', "\\", "a\nb\r\n\ndata: [DONE]\n\n", "\x00\x7f\u2028", "é 汉 🙂", '"text":""', " "]


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("model", ["tiny", 'a "" model'])
def test_a_chunk_of_text_has_the_bytes_of_the_whole_object(model: str, include_usage: bool) -> None:
    jobs = [CompletionJob(job_id=name, model=model, prompt="p", sampling=SamplingParams(seed=0), n=2) for name in "ab"]
    writer = CompletionWriter(jobs, include_usage=include_usage)
    for at, job in enumerate(jobs):
        assert not list(writer.frames([(at, Accepted(job_id=job.job_id, epoch=0, seq=0, prompt_tokens=1))]))
    for start, text in enumerate(TEXTS):
        for number in (3, 0, 2, 1):
            job_id, index = "ab"[number // 2], number % 2
            event = Delta(job_id=job_id, epoch=0, seq=1, index=index, start=start, token_ids=(7,), text=text)
            (frame,) = writer.frames([(number // 2, event)])
            chunk = Completion(
                id="cmpl-a",
                created=msgspec.json.decode(frame.removeprefix(b"data: "))["created"],
                model=model,
                choices=[CompletionChoice(index=number, text=text)],
                usage=None if include_usage else msgspec.UNSET,
            )
            assert frame == b"data: %b\n\n" % msgspec.json.encode(chunk)
    if include_usage:
        usage, _ = writer.last_frames()
        assert msgspec.json.decode(usage.removeprefix(b"data: "))["usage"]["completion_tokens"] == 4 * len(TEXTS)
