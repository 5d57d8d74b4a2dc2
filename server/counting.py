"""How many tokens a prompt has, by a worker's own count, without an answer."""

import msgspec
from starlette.requests import Request

from schemas.events import Accepted
from schemas.jobs import ChatJob
from server.inflight import Inflight
from server.streaming import all_events, cancel_on_disconnect


async def count_prompt(request: Request, inflight: Inflight, job: ChatJob) -> int:
    """The tokens of a job's prompt, media included. Raises the error with which the job ends."""
    num_tokens = 0
    counting = msgspec.structs.replace(job, n=0)
    async with inflight.open(counting) as stream, cancel_on_disconnect(request.receive, inflight, stream):
        async for event in all_events(stream):
            if isinstance(event, Accepted):
                num_tokens = event.prompt_tokens
    return num_tokens
