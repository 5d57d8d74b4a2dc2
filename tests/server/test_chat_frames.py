"""Chunks that say nothing but text against the same chunks encoded as objects."""

import msgspec
import pytest

from schemas.events import Accepted, Delta
from schemas.openai.answers import ChatCompletionChunk, ChunkChoice, ChunkDelta
from server.chat_frames import ChunkWriter, answer_id
from tests.fakes.messages import chat_job

TEXTS = ['say "" twice', "\\", "a\nb\r\n\ndata: [DONE]\n\n", "\x00\x7f\u2028", "é 汉 🙂", '"content":""', " "]


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("model", ["tiny", 'a "" model'])
def test_a_chunk_of_text_has_the_bytes_of_the_whole_object(model: str, include_usage: bool) -> None:
    job = msgspec.structs.replace(chat_job("a", model=model), n=2)
    writer = ChunkWriter(job, include_usage=include_usage, continuous_usage=False)
    opening, _ = writer.frames(Accepted(job_id="a", epoch=0, seq=0, prompt_tokens=1))
    created = msgspec.json.decode(opening.removeprefix(b"data: "))["created"]
    for start, text in enumerate(TEXTS):
        for index in (1, 0):
            event = Delta(job_id="a", epoch=0, seq=1, index=index, start=start, token_ids=(7,), text=text)
            chunk = ChatCompletionChunk(
                id=answer_id(job),
                created=created,
                model=model,
                choices=(ChunkChoice(index=index, delta=ChunkDelta(content=text)),),
                usage=None if include_usage else msgspec.UNSET,
            )
            assert list(writer.frames(event)) == [b"data: %b\n\n" % msgspec.json.encode(chunk)]
