"""A JobQueue in memory. Its worker is a script: a function that plays a job's events; messages are encoded for real."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any

from schemas import wire
from schemas.control import ModelCard
from schemas.errors import Overloaded
from schemas.events import Accepted, Delta, Event, Finished
from schemas.jobs import CompletionJob, Job
from server.transport.affinity import AffinityCounts
from server.transport.answers import SharedAnswers
from server.transport.base import JobLost, WorkerInfo

Script = Callable[[Any], AsyncGenerator[Event, None]]


class WorkerDied(Exception):
    """Raised by a script: the worker that plays it is lost with the job, which it had begun unless said otherwise. A
    suspected job is on trial from then until its worker is lost, however many tokens it told."""

    def __init__(self, *, was_taken: bool = True) -> None:
        super().__init__()
        self.was_taken = was_taken


class MemoryQueue:
    """Plays each job by `script` at once, or holds it while there is no worker."""

    def __init__(self, script: Script, models: tuple[str, ...] = ("demo",), max_waiting: int = 1000) -> None:
        self.answers: SharedAnswers | None = None
        self.script = script
        self.max_waiting = max_waiting
        self.submitted: list[Any] = []
        self.cancelled: list[str] = []
        self.was_cancelled = asyncio.Event()
        self.fleet = [worker(model) for model in models]
        self._waiting: list[Any] = []
        self._playing: dict[str, asyncio.Task[None]] = {}
        self._outbox: asyncio.Queue[bytes | JobLost | None] = asyncio.Queue()

    async def start(self) -> None:
        pass

    async def submit(self, job: Job, *, front: bool = False) -> None:
        if not front and len(self._waiting) >= self.max_waiting:
            raise Overloaded("The queue is full.", retry_after_s=2.5)
        received = wire.decode_for_worker(wire.encode(job))
        assert isinstance(received, Job)
        self.submitted.append(received)
        self._waiting.insert(0 if front else len(self._waiting), received)
        self.hand_out()

    def hand_out(self) -> None:
        """Give what waits to the workers that there are."""
        served = {info.card.name for info in self.fleet}
        for job in [job for job in self._waiting if job.model in served]:
            self._waiting.remove(job)
            self._playing[job.job_id] = asyncio.create_task(self._play(job))

    async def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)
        self.was_cancelled.set()
        self._waiting = [job for job in self._waiting if job.job_id != job_id]
        if job_id in self._playing:
            self._playing.pop(job_id).cancel()

    async def messages(self) -> AsyncIterator[Event | JobLost]:
        while (item := await self._outbox.get()) is not None:
            message = item if isinstance(item, JobLost) else wire.decode_for_gateway(item)
            assert isinstance(message, Event | JobLost)
            yield message

    def workers(self) -> list[WorkerInfo]:
        return self.fleet

    def depth(self, model: str) -> int:
        return sum(job.model == model for job in self._waiting)

    def affinity(self) -> AffinityCounts:
        return AffinityCounts()

    def lost_workers(self) -> Mapping[tuple[str, str], int]:
        return {}

    async def close(self) -> None:
        for task in self._playing.values():
            task.cancel()
        self._outbox.put_nowait(None)

    def publish(self, event: Event) -> None:
        """Send an event, outside of any script."""
        self._outbox.put_nowait(wire.encode(event))

    def publish_lost(self, lost: JobLost) -> None:
        """Tell the gateway that a worker is lost."""
        self._outbox.put_nowait(lost)

    async def _play(self, job: Job) -> None:
        try:
            async for event in self.script(job):
                self.publish(event)
        except WorkerDied as death:
            is_on_trial = death.was_taken and job.trial_tokens > 0
            self.publish_lost(JobLost(job.job_id, job.epoch, f"worker-{job.model}", death.was_taken, is_on_trial))


def worker(model: str, state: str = "ready", **figures: float) -> WorkerInfo:
    """A worker as its heartbeats show it."""
    card = ModelCard(name=model, max_model_len=4096, created=1_700_000_000, architecture="Demo")
    return WorkerInfo(f"worker-{model}", 4242, card, state, 1, 2, 0.25, dict(figures))


class Teller:
    """Plays the events of an answer as a worker would: a token a word, going on behind what was emitted."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._seq = 0
        self._counts = [0] * job.n
        for choice in job.emitted:
            self._counts[choice.index] = len(choice.token_ids)

    def accepted(self, prompt_tokens: int = 7, image_tokens: int = 0) -> Accepted:
        ids = tuple(range(prompt_tokens)) if self._job.return_token_ids else None
        return Accepted(
            job_id=self._job.job_id,
            epoch=self._job.epoch,
            seq=self._next_seq(),
            prompt_tokens=prompt_tokens,
            image_tokens=image_tokens,
            prompt_token_ids=ids,
            prompt_token_texts=tuple(f"<{i}>" for i in ids or ()) if self._job.return_token_texts else None,
            prompt_text=str(self._job.prompt) if isinstance(self._job, CompletionJob) and self._job.echo else None,
        )

    def words(self, text: str, index: int = 0) -> list[Delta]:
        """What is left of the text, ids being the words' places; the last delta finishes the choice."""
        words = text.split(" ")
        return [self.word(words, place, index) for place in range(self._counts[index], len(words))]

    def word(self, words: list[str], place: int, index: int = 0) -> Delta:
        last = place + 1 == len(words)
        self._counts[index] = place + 1
        return Delta(
            job_id=self._job.job_id,
            epoch=self._job.epoch,
            seq=self._next_seq(),
            index=index,
            start=place,
            token_ids=(place,),
            text=words[place] + ("" if last else " "),
            finish_reason="stop" if last else None,
        )

    def finished(self) -> Finished:
        return Finished(
            job_id=self._job.job_id,
            epoch=self._job.epoch,
            seq=self._next_seq(),
            completion_tokens=sum(self._counts),
            cached_tokens=3,
        )

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq - 1


def tell(text: str) -> Script:
    """A script that answers every choice of every job with `text`."""

    async def script(job: Job) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        yield teller.accepted()
        for index in range(job.n):
            for delta in teller.words(text, index):
                yield delta
        yield teller.finished()

    return script
