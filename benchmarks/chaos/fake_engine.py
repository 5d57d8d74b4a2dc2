"""A fake engine: a worker process as it is, round a handler without a model. `python -m benchmarks.chaos.fake_engine`.

Each token is a digest of the prompt, the seed, the choice and all tokens before it, so the right answer is known, and
a job that is taken over with one id too few, too many or wrong goes on wrongly. Keys and values do not exist; the
pages that they would lie in do, in the real block manager.
"""

import asyncio
import hashlib
import sys
from collections.abc import Iterable
from collections.abc import Sequence as Ids

from benchmarks.chaos.history import Answer, Choice
from schemas.control import ModelCard
from schemas.events import Accepted, Delta, Finished
from schemas.jobs import ChatJob, Job
from workers.__main__ import main
from workers.engine.block_manager import BlockManager
from workers.engine.sequence import Sequence
from workers.handlers.base import JobHandler, Publish, Stats
from workers.settings import WorkerSettings

MODEL = "fake"
TOKEN_S = 0.02
PREFILL_S = 0.03
NUM_BLOCKS, BLOCK_SIZE = 4096, 16


class Chain:
    """The tokens of one choice, each a function of all before it."""

    def __init__(self, prompt: str, seed: int, index: int, token_ids: Iterable[int] = ()) -> None:
        self._state = hashlib.sha256(f"{prompt}/{seed}/{index}".encode()).digest()
        for token_id in token_ids:
            self._follow(token_id)

    def next_id(self) -> int:
        """The next token."""
        token_id = int.from_bytes(self._state[:2], "big")
        self._follow(token_id)
        return token_id

    def _follow(self, token_id: int) -> None:
        self._state = hashlib.sha256(self._state + token_id.to_bytes(2, "big")).digest()


def text_of(token_id: int) -> str:
    """What a token adds to the text."""
    return f"{token_id:x} "


def right_answer(prompt: str, seed: int, num_tokens: int, num_choices: int) -> Answer:
    """The undisturbed answer."""
    return Answer(
        len(prompt.encode()), tuple(_choice(Chain(prompt, seed, index), num_tokens) for index in range(num_choices))
    )


def _choice(chain: Chain, num_tokens: int) -> Choice:
    token_ids = tuple(chain.next_id() for _ in range(num_tokens))
    return Choice(token_ids, "".join(map(text_of, token_ids)))


class FakeHandler:
    """A JobHandler. All choices of a job go on side by side; each ends after the job's max_tokens."""

    def __init__(self, name: str, token_s: float, prefill_s: float) -> None:
        self.card = ModelCard(name=name, max_model_len=65536, created=0)
        self.fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._token_s = token_s
        self._prefill_s = prefill_s
        self._blocks = BlockManager(NUM_BLOCKS, BLOCK_SIZE)
        self._held: set[Sequence] = set()

    async def run(self, job: Job, publish: Publish) -> None:
        """See JobHandler."""
        assert isinstance(job, ChatJob)
        prompt = "\n".join(getattr(part, "text", "") for message in job.messages for part in message.parts)
        num_tokens = job.sampling.max_tokens or 1
        emitted = {choice.index: choice.token_ids for choice in job.emitted}
        sequences = [self._sequence(job, prompt, index, emitted.get(index, ()), num_tokens) for index in range(job.n)]
        self._held.update(sequences)
        try:
            await asyncio.sleep(self._prefill_s)
            publish(Accepted(job_id=job.job_id, epoch=job.epoch, seq=0, prompt_tokens=len(prompt.encode())))
            chains = [Chain(prompt, job.sampling.seed, index, emitted.get(index, ())) for index in range(job.n)]
            while not all(seq.is_at_limit for seq in sequences):
                await asyncio.sleep(self._token_s)
                for index, (seq, chain) in enumerate(zip(sequences, chains, strict=True)):
                    if not seq.is_at_limit:
                        publish(self._step(job, index, seq, chain))
            publish(Finished(job_id=job.job_id, epoch=job.epoch, seq=0, completion_tokens=num_tokens * job.n))
        finally:
            for seq in sequences:
                self._blocks.free(seq)
            self._held.difference_update(sequences)
            self._blocks.check(self._held)

    def _sequence(self, job: Job, prompt: str, index: int, emitted: Ids[int], num_tokens: int) -> Sequence:
        prompt_ids = list(prompt.encode())
        return Sequence(f"{job.job_id}/{index}", [*prompt_ids, *emitted], len(prompt_ids), len(prompt_ids) + num_tokens)

    def _step(self, job: Job, index: int, seq: Sequence, chain: Chain) -> Delta:
        self._blocks.allocate(seq, seq.num_tokens)
        seq.num_computed_tokens = seq.num_tokens
        self._blocks.commit(seq)
        start, token_id = seq.num_output_tokens, chain.next_id()
        seq.token_ids.append(token_id)
        return Delta(
            job_id=job.job_id,
            epoch=job.epoch,
            seq=0,
            index=index,
            start=start,
            token_ids=(token_id,),
            text=text_of(token_id),
            finish_reason="length" if seq.is_at_limit else None,
        )

    def stats(self) -> Stats:
        """See JobHandler."""
        return Stats(running=len(self._held), waiting=0, kv_usage=self._blocks.usage)

    async def close(self) -> None:
        """See JobHandler."""


async def open_fake(settings: WorkerSettings) -> JobHandler:
    """The fake engine. `--model-option token_s=0.1`: at another pace than usual."""
    return FakeHandler(settings.name, float(settings.model_options.get("token_s", TOKEN_S)), PREFILL_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], open_fake))
