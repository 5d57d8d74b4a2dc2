"""What gateways and workers tell each other besides jobs and events: who is there, how busy, what to stop.

What a worker says is an array as bytes, like its events: a new field goes to the end, with a default.
"""

import msgspec


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker serves, for /v1/models and for routing by name."""

    name: str
    max_model_len: int
    created: int
    architecture: str = ""
    modalities: tuple[str, ...] = ("text", "image", "video")


class Hello(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="hello"):
    """A worker announces itself once its model is ready. `worker_id` is new with every process start; `pid` means
    something on `host` only. `seats`: jobs that it holds at a time; 0: it does not say."""

    worker_id: str
    pid: int
    card: ModelCard
    host: str = ""
    seats: int = 0


class Claim(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="claim"):
    """The worker can take `credits` more jobs than it was sent so far."""

    worker_id: str
    credits: int


class Taken(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="taken"):
    """The worker has this job and is about to begin it. Sent before anything is done with the job: one that kills its
    worker at once is known to have been there, and one that never got there is not blamed."""

    worker_id: str
    job_id: str
    epoch: int


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="heartbeat"):
    """Sent twice a second. Renews the lease of every job in `job_ids`; a job that a gateway believes to be there and
    that is missing from it is lost. `kv_usage` counts blocks that requests hold, 0..1. `metrics` are cumulative
    counters and gauges by Prometheus name, shown by the gateway with the labels model and worker."""

    worker_id: str
    state: str
    running: int
    waiting: int
    kv_usage: float
    job_ids: tuple[str, ...] = ()
    metrics: dict[str, float] = {}


STALLED = "no step of the engine ended in time"
"""The reason of a worker whose watchdog ends it."""


class Goodbye(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="goodbye"):
    """The worker leaves: drained, and what it still holds is handed back, or unable to go on (`reason`)."""

    worker_id: str
    reason: str = ""


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag="cancel"):
    """The client is gone or its time is over: stop the job; no event needs to follow."""

    job_id: str


class Drain(msgspec.Struct, frozen=True, kw_only=True, tag="drain"):
    """Take no new jobs, finish what runs, say Goodbye and exit 0."""


FromWorker = Hello | Claim | Taken | Heartbeat | Goodbye
ToWorker = Cancel | Drain
