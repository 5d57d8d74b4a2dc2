"""What both ends of a Redis queue go by: the names of keys, the fields of stream entries, times to live.

| key | type | who writes | for how long |
|---|---|---|---|
| glimpsed:gateways | set of gateway ids | gateways | a lease behind the last gateway |
| glimpsed:gateway:ID | stream: a gateway's mailbox | workers | 1.6 leases behind its gateway |
| glimpsed:worker:ID | stream: a worker's mailbox | gateways | 1.6 leases behind its worker |
| glimpsed:answer:NAME | hash: who makes an answer (server/transport/answers.py) | gateways | `--resume-window` |
| glimpsed:pieces:NAME | stream: its pieces | its gateway | the same |
| glimpsed:answers:SHELF | sorted set: a tenant's answers, the latest last | gateways | the same |
| glimpsed:bucket:NAME | text: what is left of a key's minute, and when | gateways | until it is full |
| glimpsed:{MODEL}:jobs:LINE | stream of pointers to jobs, a group | gateways | a job's time, or a minute |
| glimpsed:{MODEL}:jobs:for:ID | the same, for one worker first | gateways | until it leaves, or a minute |
| glimpsed:{MODEL}:job:ID:EPOCH | the job itself | its gateway | until taken, cancelled or overdue |

A pointer says that somebody should take a job; who gets the job itself (read and deleted in one step) has it, so that
no pointer that is read twice starts a job twice. A mailbox exists as long as its owner renews it, and only its owner
creates it: whoever finds it missing knows that the owner is gone.
"""

from urllib.parse import urlsplit

from schemas.jobs import Job

SCHEMES = ("redis", "rediss")
GATEWAYS = "glimpsed:gateways"
GROUP = "workers"
CONSUMER = "worker"
"""One name for all: a pointer that was read and not followed is soon anybody's, whoever read it."""

SUSPECTED, RESUMED, HIGH, NORMAL, LOW = LINES = ("suspected", "resumed", "high", "normal", "low")
"""A model's lines of waiting jobs, the first one first; first come, first served within each. The first one is not read
by a worker that has a job on trial."""
LINE_TTL_S = 60.0
"""A line nobody uses ends by itself: a worker renews it with each heartbeat, a job for as long as it may wait."""

MAX_MAILBOX_ENTRIES = 65536
"""A bound only: owners trim what they have read several times a second."""

# Fields of a pointer.
GATEWAY, JOB, EPOCH = b"gateway", b"job", b"epoch"
# Fields of an entry in a gateway's mailbox: from whom, its Hello where it may be needed, then numbered messages. The
# gateway's own entry says that this worker's process has ended.
WORKER, HELLO, ENDED = b"worker", b"hello", b"ended"
# Field of an entry in a worker's mailbox, beside EPOCH: an order, void for a job of a later epoch.
ORDER = b"order"


def is_redis(url: str) -> bool:
    """Whether a --queue value names a Redis server."""
    return urlsplit(url).scheme in SCHEMES


def gateway_mailbox(gateway_id: str) -> str:
    """The stream that workers write a gateway's events to."""
    return f"glimpsed:gateway:{gateway_id}"


def answer(name: str) -> str:
    """Who is at an answer that gateways share."""
    return f"glimpsed:answer:{name}"


def answer_pieces(name: str) -> str:
    """The stream of its pieces."""
    return f"glimpsed:pieces:{name}"


def shelf_of(name: str) -> str:
    """The names of all answers of its tenant."""
    return f"glimpsed:answers:{name.partition(':')[0]}"


def bucket(name: str) -> str:
    """What is left of a limit that gateways share."""
    return f"glimpsed:bucket:{name}"


def worker_mailbox(worker_id: str) -> str:
    """The stream that gateways write a worker's orders to."""
    return f"glimpsed:worker:{worker_id}"


def lines_of(model: str) -> list[str]:
    """The streams of a model's pointers, the first one first."""
    return [line_of(model, line) for line in LINES]


def line_of(model: str, line: str) -> str:
    """One of them."""
    return f"glimpsed:{{{model}}}:jobs:{line}"


def own_line(model: str, worker_id: str) -> str:
    """The stream of pointers to jobs that are offered to one worker first."""
    return f"glimpsed:{{{model}}}:jobs:for:{worker_id}"


def lines_of_worker(model: str, worker_id: str) -> list[str]:
    """All streams that a worker reads, the first one first: its own before the normal one."""
    lines = lines_of(model)
    lines.insert(LINES.index(NORMAL), own_line(model, worker_id))
    return lines


def line_for(job: Job, *, is_resumed: bool) -> str:
    """The stream for a job: smaller priority values go first, resumed jobs before all others."""
    if job.trial_tokens:
        return line_of(job.model, SUSPECTED)
    if is_resumed:
        return line_of(job.model, RESUMED)
    return line_of(job.model, HIGH if job.priority < 0 else NORMAL if job.priority == 0 else LOW)


def job_key(model: str, job_id: str, epoch: int) -> str:
    """Where a job lies until it is taken."""
    return f"glimpsed:{{{model}}}:job:{job_id}:{epoch}"
