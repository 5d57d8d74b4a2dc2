"""Short ways to write the messages that tests of both sides send around."""

import platform

from schemas.control import Heartbeat, Hello, ModelCard
from schemas.events import Accepted, Delta, Finished
from schemas.jobs import ChatJob, Message, TextPart
from schemas.sampling import SamplingParams

MODEL = "tiny"
SEATS = 8


def chat_job(
    job_id: str, *, model: str = MODEL, priority: int = 0, epoch: int = 0, text: str = "hi", trial_tokens: int = 0
) -> ChatJob:
    """A job with one user message."""
    return ChatJob(
        job_id=job_id,
        model=model,
        messages=(Message(role="user", parts=(TextPart(text=text),)),),
        sampling=SamplingParams(seed=0, max_tokens=8),
        priority=priority,
        epoch=epoch,
        trial_tokens=trial_tokens,
    )


def hello(worker_id: str, *, model: str = MODEL, pid: int = 1) -> Hello:
    """A worker of the model, on this host."""
    card = ModelCard(name=model, max_model_len=128, created=0)
    return Hello(worker_id=worker_id, pid=pid, card=card, host=platform.node(), seats=SEATS)


def heartbeat(worker_id: str, *job_ids: str, state: str = "ready") -> Heartbeat:
    """A worker that holds these jobs."""
    return Heartbeat(
        worker_id=worker_id, state=state, running=len(job_ids), waiting=0, kv_usage=0.0, job_ids=tuple(job_ids)
    )


def accepted(job_id: str, *, epoch: int = 0, seq: int = 0) -> Accepted:
    """The first event of a job."""
    return Accepted(job_id=job_id, epoch=epoch, seq=seq, prompt_tokens=1)


def delta(job_id: str, position: int, *, epoch: int = 0) -> Delta:
    """The token at a position, of a job with one choice."""
    return Delta(job_id=job_id, epoch=epoch, seq=position + 1, index=0, start=position, token_ids=(position,), text="x")


def finished(job_id: str, *, epoch: int = 0, seq: int = 0) -> Finished:
    """The last event of a job."""
    return Finished(job_id=job_id, epoch=epoch, seq=seq, completion_tokens=1)
