"""What the tests of the local queue's data share."""

from schemas.control import Claim
from server.transport.broker import Broker
from tests.fakes.messages import hello

LEASE_S = 3.0


def join(broker: Broker, worker_id: str, credits: int, model: str = "tiny", pid: int = 1) -> None:
    broker.hello(hello(worker_id, model=model, pid=pid))
    broker.claim(Claim(worker_id=worker_id, credits=credits))


def assigned(broker: Broker) -> list[tuple[str, str]]:
    pairs = [(worker_id, job.job_id) for worker_id, job in broker.assign()]
    broker.check()
    return pairs
