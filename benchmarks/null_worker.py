"""`python -m benchmarks.null_worker SECONDS ...`: a fake: the real worker process round no model at all.

Each token of an answer is the time at which it was published (CLOCK_MONOTONIC, ns), so that whoever reads it on this
machine knows how long it was on its way. SECONDS lie between two tokens of an answer; with 0 they come as fast as the
event loop turns, one of each running answer a turn, as an engine's steps would bring them.
"""

import asyncio
import sys
import time

from schemas.control import ModelCard
from schemas.events import Accepted, Delta, Finished
from schemas.jobs import Job
from workers.__main__ import main
from workers.handlers.base import Publish, Stats
from workers.settings import WorkerSettings

MAX_TOKENS = 16


class NullHandler:
    """A JobHandler without a model. Answers have as many tokens as the job allows, MAX_TOKENS if it does not say."""

    def __init__(self, name: str, token_s: float) -> None:
        self.card = ModelCard(name=name, max_model_len=1 << 20, created=0)
        self.fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._token_s = token_s
        self._num_running = 0

    async def run(self, job: Job, publish: Publish) -> None:
        self._num_running += 1
        try:
            publish(Accepted(job_id=job.job_id, epoch=job.epoch, seq=0, prompt_tokens=1))
            num_tokens = job.sampling.max_tokens or MAX_TOKENS
            for position in range(num_tokens):
                await asyncio.sleep(self._token_s)
                publish(
                    Delta(
                        job_id=job.job_id,
                        epoch=job.epoch,
                        seq=0,
                        index=0,
                        start=position,
                        token_ids=(position,),
                        text=f"{time.monotonic_ns()} ",
                        finish_reason="length" if position + 1 == num_tokens else None,
                    )
                )
            publish(Finished(job_id=job.job_id, epoch=job.epoch, seq=0, completion_tokens=num_tokens))
        finally:
            self._num_running -= 1

    def stats(self) -> Stats:
        return Stats(running=self._num_running, waiting=0, kv_usage=0.0)

    async def close(self) -> None:
        pass


async def open_null(settings: WorkerSettings) -> NullHandler:
    return NullHandler(settings.name, float(settings.model))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], open_null))
