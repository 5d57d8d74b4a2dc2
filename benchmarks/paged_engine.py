"""A fake engine with real pages: a JobHandler whose block manager is the product's and whose model is a pause.

A prompt takes as long as the tokens that its prefix cache does not have; one prompt is computed at a time, answers go
on side by side. A token is a word, so that an answer that comes back as part of the next prompt has the same tokens.
"""

import asyncio
import hashlib
import random
import zlib

from schemas.control import ModelCard
from schemas.events import Accepted, Delta, Finished
from schemas.jobs import ChatJob, Job, TextPart
from workers.engine.block_manager import BlockManager
from workers.engine.sequence import MediaInput, Sequence
from workers.handlers.base import Publish, Stats

BLOCK_SIZE = 16
PICTURE_TOKENS = 256
PREFILL_TOKENS_PER_S = 8000
TOKEN_S = 0.02


class PagedHandler:
    """A JobHandler. num_blocks: pages of its cache. Answers have as many tokens as the job allows."""

    def __init__(self, name: str, num_blocks: int) -> None:
        self.card = ModelCard(name=name, max_model_len=num_blocks * BLOCK_SIZE, created=0)
        self.fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._blocks = BlockManager(num_blocks, BLOCK_SIZE)
        self._computing = asyncio.Lock()
        self._num_running = self._num_jobs = self._num_prompt_tokens = self._num_cached_tokens = 0
        self._job_s = 0.0

    async def run(self, job: Job, publish: Publish) -> None:
        """See JobHandler."""
        assert isinstance(job, ChatJob)
        began_s = asyncio.get_running_loop().time()
        seq = sequence_of(job)
        self._num_running += 1
        try:
            await self._prefill(seq)
            publish(Accepted(job_id=job.job_id, epoch=job.epoch, seq=0, prompt_tokens=seq.num_prompt_tokens))
            words = random.Random(job.job_id)
            while not seq.is_at_limit:
                await asyncio.sleep(TOKEN_S)
                publish(self._step(job, seq, f"w{words.randrange(10_000)} "))
            publish(
                Finished(
                    job_id=job.job_id,
                    epoch=job.epoch,
                    seq=0,
                    completion_tokens=seq.num_output_tokens,
                    cached_tokens=seq.num_cached_tokens,
                )
            )
        finally:
            self._blocks.free(seq)
            self._num_running -= 1
            self._num_jobs += 1
            self._job_s += asyncio.get_running_loop().time() - began_s

    async def _prefill(self, seq: Sequence) -> None:
        async with self._computing:
            while not self._blocks.can_allocate(seq, seq.max_total_tokens):
                await asyncio.sleep(TOKEN_S)
            self._blocks.allocate(seq, seq.max_total_tokens)
            seq.num_cached_tokens = seq.num_computed_tokens
            self._num_prompt_tokens += seq.num_tokens
            self._num_cached_tokens += seq.num_cached_tokens
            await asyncio.sleep(seq.num_uncomputed / PREFILL_TOKENS_PER_S)
            seq.num_computed_tokens = seq.num_tokens
            self._blocks.commit(seq)

    def _step(self, job: ChatJob, seq: Sequence, text: str) -> Delta:
        start, token_id = seq.num_output_tokens, token_of(text.strip())
        seq.token_ids.append(token_id)
        seq.num_computed_tokens = seq.num_tokens - 1
        self._blocks.commit(seq)
        return Delta(
            job_id=job.job_id,
            epoch=job.epoch,
            seq=0,
            index=0,
            start=start,
            token_ids=(token_id,),
            text=text,
            finish_reason="length" if seq.is_at_limit else None,
        )

    def stats(self) -> Stats:
        """See JobHandler."""
        metrics = {
            "fake_jobs_total": float(self._num_jobs),
            "fake_job_seconds_total": self._job_s,
            "fake_prompt_tokens_total": float(self._num_prompt_tokens),
            "fake_cached_tokens_total": float(self._num_cached_tokens),
        }
        return Stats(running=self._num_running, waiting=0, kv_usage=self._blocks.usage, metrics=metrics)

    async def close(self) -> None:
        """See JobHandler."""


def sequence_of(job: ChatJob) -> Sequence:
    """The prompt: each message's role and words, or the placeholders of a picture; last the assistant's role."""
    token_ids: list[int] = []
    media: list[MediaInput] = []
    for message in job.messages:
        token_ids.append(token_of(f"<{message.role}>"))
        for part in message.parts:
            if isinstance(part, TextPart):
                token_ids += map(token_of, part.text.split())
            else:
                media.append(MediaInput(len(token_ids), PICTURE_TOKENS, hashlib.sha256(part.url.encode()).digest()))
                token_ids += [0] * PICTURE_TOKENS
    token_ids.append(token_of("<assistant>"))
    limit = len(token_ids) + (job.sampling.max_tokens or BLOCK_SIZE)
    return Sequence(job.job_id, token_ids, len(token_ids), limit, tuple(media))


def token_of(word: str) -> int:
    """The id of a word."""
    return zlib.crc32(word.encode())
