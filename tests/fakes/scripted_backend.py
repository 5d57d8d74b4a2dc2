"""A handler without a model: token i of an answer is a pure function of the prompt, the seed and i.

So the right answer is known whatever was killed in between. A word in the prompt scripts a fault: `refuse`, `raise`,
`forget` (ends without a last event), `break` (the backend fails for all), `die` (the process aborts), `poison` (it
aborts before it says anything of the job), `wait` (goes on only when the test opens the gate).
"""

import asyncio
import hashlib
import os
from typing import Any

from schemas.control import ModelCard
from schemas.errors import ErrorCode, RequestError
from schemas.events import Accepted, Delta, Finished
from schemas.jobs import CompletionJob, Job, TextPart
from workers.handlers.base import FatalError, Publish, Stats
from workers.transport.zeromq import WORD_OUT_S


def prompt_of(job: Job) -> str:
    """The text of all messages, or the bare prompt."""
    if isinstance(job, CompletionJob):
        return str(job.prompt)
    return "\n".join(part.text for message in job.messages for part in message.parts if isinstance(part, TextPart))


def token_at(prompt: str, seed: int, position: int) -> int:
    """The id at a position; never depends on the ids before it."""
    return int.from_bytes(hashlib.sha256(f"{prompt}/{seed}/{position}".encode()).digest()[:2], "big")


def text_of(token_id: int) -> str:
    """What an id adds to the text."""
    return f"{token_id:x} "


def answer(prompt: str, seed: int, num_tokens: int) -> str:
    """The undisturbed text."""
    return "".join(text_of(token_at(prompt, seed, position)) for position in range(num_tokens))


class ScriptedHandler:
    """A JobHandler. `token_s`: seconds between tokens. Each choice ends after the job's max_tokens (8 if unset)."""

    def __init__(self, name: str = "tiny", token_s: float = 0.0) -> None:
        self.card = ModelCard(name=name, max_model_len=4096, created=0)
        self.fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.gate = asyncio.Event()
        self.running: set[str] = set()
        self.is_closed = False
        self._token_s = token_s

    async def run(self, job: Job, publish: Publish) -> None:
        self.running.add(job.job_id)
        try:
            await self._answer(job, publish)
        finally:
            self.running.discard(job.job_id)

    async def _answer(self, job: Job, publish: Publish) -> None:
        prompt = prompt_of(job)
        if "refuse" in prompt:
            raise RequestError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, "the prompt is too long", "messages")
        if "poison" in prompt:
            await asyncio.sleep(WORD_OUT_S)  # Sooner, its gateway might never hear that this worker had it.
            os.abort()
        names: dict[str, Any] = {"job_id": job.job_id, "epoch": job.epoch, "seq": 0}
        publish(Accepted(**names, prompt_tokens=len(prompt)))
        num_tokens = job.sampling.max_tokens or 8
        emitted = {choice.index: len(choice.token_ids) for choice in job.emitted}
        for index in range(job.n):
            for position in range(emitted.get(index, 0), num_tokens):
                await asyncio.sleep(self._token_s)
                await self._misbehave(prompt, position)
                token_id = token_at(prompt, job.sampling.seed, position)
                is_last = position == num_tokens - 1
                publish(
                    Delta(
                        **names,
                        index=index,
                        start=position,
                        token_ids=(token_id,),
                        text=text_of(token_id),
                        finish_reason="length" if is_last else None,
                    )
                )
        if "forget" not in prompt:
            publish(Finished(**names, completion_tokens=num_tokens * job.n))

    async def _misbehave(self, prompt: str, position: int) -> None:
        if position != 1:
            return
        if "wait" in prompt:
            await self.gate.wait()
        if "raise" in prompt:
            raise ZeroDivisionError("a bug")
        if "break" in prompt:
            raise FatalError("the device is lost")
        if "die" in prompt:
            os.abort()

    def stats(self) -> Stats:
        return Stats(running=len(self.running), waiting=0, kv_usage=0.0, metrics={"tokens_total": 1.0})

    async def close(self) -> None:
        self.is_closed = True
