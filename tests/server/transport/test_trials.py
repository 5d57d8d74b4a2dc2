"""Which job is held against for a worker's end: while one is on trial, that one and no other."""

import pytest

from schemas.control import STALLED, Goodbye, Taken
from server.transport.base import JobLost
from server.transport.broker import Broker
from tests.fakes.clock import Clock
from tests.fakes.messages import chat_job, delta, finished, heartbeat
from tests.server.transport.brokering import LEASE_S, assigned, join


@pytest.fixture
def broker() -> Broker:
    return Broker(Clock(), max_queue=8, lease_s=LEASE_S)


def begin(broker: Broker, *job_ids: str, worker_id: str = "w", epoch: int = 1) -> None:
    for job_id in job_ids:
        broker.taken(Taken(worker_id=worker_id, job_id=job_id, epoch=epoch))


def suspect(broker: Broker, *job_ids: str, trial_tokens: int = 2) -> None:
    for job_id in job_ids:
        broker.submit(chat_job(job_id, epoch=1, trial_tokens=trial_tokens), front=True)


def test_a_worker_has_one_job_on_trial_at_a_time_and_takes_new_ones_beside_it(broker: Broker) -> None:
    suspect(broker, "a", "b", "c")
    broker.submit(chat_job("new"))
    join(broker, "w1", credits=8)
    assert assigned(broker) == [("w1", "a"), ("w1", "new")]
    join(broker, "w2", credits=8)
    assert assigned(broker) == [("w2", "b")]
    assert broker.depth("tiny") == 1


def test_the_next_one_follows_when_the_first_has_come_far_enough(broker: Broker) -> None:
    suspect(broker, "a", "b")
    join(broker, "w", credits=8)
    assert assigned(broker) == [("w", "a")]
    broker.event("w", delta("a", 0, epoch=1))
    assert assigned(broker) == []
    broker.event("w", delta("a", 1, epoch=0))
    assert assigned(broker) == [], "that was of an earlier attempt"
    broker.event("w", delta("a", 1, epoch=1))
    assert assigned(broker) == [("w", "b")]


@pytest.mark.parametrize("end", ["finished", "cancelled", "lost"])
def test_the_next_one_follows_when_the_first_has_ended(broker: Broker, end: str) -> None:
    suspect(broker, "a", "b")
    join(broker, "w", credits=8)
    assert assigned(broker) == [("w", "a")]
    match end:
        case "finished":
            broker.event("w", finished("a", epoch=1))
        case "cancelled":
            assert broker.cancel("a") == "w"
        case "lost":
            broker.worker_lost("w")
            join(broker, "w", credits=8)
    assert assigned(broker) == [("w", "b")]


def test_a_suspected_job_that_waits_can_be_cancelled(broker: Broker) -> None:
    suspect(broker, "a")
    assert broker.cancel("a") is None
    join(broker, "w", credits=8)
    assert assigned(broker) == []


def test_the_job_on_trial_is_what_ended_its_worker_and_no_other_is_blamed(broker: Broker) -> None:
    suspect(broker, "a", "b")
    broker.submit(chat_job("new", epoch=1))
    join(broker, "w", credits=8)
    assigned(broker)
    begin(broker, "a", "new")
    broker.event("w", delta("a", 0, epoch=1))
    broker.event("w", delta("a", 1, epoch=1))
    assert assigned(broker) == [("w", "b")]
    begin(broker, "b")
    assert broker.worker_lost("w") == [
        JobLost("a", 1, "w", was_taken=False),
        JobLost("new", 1, "w", was_taken=False),
        JobLost("b", 1, "w", was_on_trial=True),
    ]


def test_a_suspected_job_that_never_got_there_did_not_end_the_worker(broker: Broker) -> None:
    broker.submit(chat_job("new", epoch=1))
    join(broker, "w", credits=8)
    assigned(broker)
    begin(broker, "new")
    suspect(broker, "a")
    assert assigned(broker) == [("w", "a")]
    assert broker.worker_lost("w") == [JobLost("new", 1, "w"), JobLost("a", 1, "w", was_taken=False)]


def test_a_worker_that_cannot_go_on_was_ended_and_one_that_drains_was_not(broker: Broker) -> None:
    for worker_id, reason in (("broken", "the device is lost"), ("draining", "")):
        join(broker, worker_id, credits=8)
        suspect(broker, f"at {worker_id}")
        assigned(broker)
        begin(broker, f"at {worker_id}", worker_id=worker_id)
        (lost,) = broker.goodbye(Goodbye(worker_id=worker_id, reason=reason))
        assert (lost.was_taken, lost.was_on_trial) == (bool(reason), bool(reason))


def test_a_worker_that_lives_and_forgot_its_job_on_trial_was_not_ended_by_it() -> None:
    clock = Clock()
    broker = Broker(clock, max_queue=8, lease_s=LEASE_S)
    suspect(broker, "a")
    join(broker, "w", credits=8)
    assigned(broker)
    begin(broker, "a")
    clock.advance(LEASE_S + 0.1)
    lost, _ = broker.heartbeat(heartbeat("w"))
    assert lost == [JobLost("a", 1, "w")]


def test_lost_workers_are_counted_by_model_and_cause() -> None:
    clock = Clock()
    broker = Broker(clock, max_queue=8, lease_s=LEASE_S)
    for worker_id in ("ended", "broken", "hung", "drained"):
        join(broker, worker_id, credits=1)
    join(broker, "silent", credits=1, model="other")
    broker.worker_lost("ended")
    broker.worker_lost("unknown")
    for worker_id, reason in (("broken", "the device is lost"), ("hung", STALLED), ("drained", "")):
        broker.goodbye(Goodbye(worker_id=worker_id, reason=reason))
    clock.advance(LEASE_S + 1)
    broker.expire()
    causes = {("tiny", "died"): 1, ("tiny", "failed"): 1, ("tiny", "hung"): 1, ("other", "silent"): 1}
    assert broker.lost_workers() == causes
