"""Which worker the local queue gives a conversation's next turn to."""

import msgspec
import pytest

from schemas.control import Claim
from server.transport.broker import LOOKAHEAD, PASSED_OVER_S, Broker
from tests.fakes.clock import Clock
from tests.fakes.messages import chat_job, finished
from tests.server.transport.brokering import LEASE_S, assigned, join

LONG = "word " * 100


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def broker(clock: Clock) -> Broker:
    return Broker(clock, max_queue=4, lease_s=LEASE_S)


def ask(broker: Broker, job_id: str, talk: str, **fields: int) -> None:
    """A job of a conversation, which is known by how it begins."""
    broker.submit(chat_job(job_id, text=f"{talk} {LONG}", **fields))


@pytest.fixture
def sticky(clock: Clock) -> Broker:
    return Broker(clock, max_queue=100, lease_s=LEASE_S, affinity_margin=0.25)


def test_jobs_that_come_one_by_one_go_round_all_workers(broker: Broker) -> None:
    for worker_id in ("w1", "w2", "w3"):
        join(broker, worker_id, credits=4)
    given = []
    for name in "abcdef":
        broker.submit(chat_job(name))
        [(worker_id, _)] = assigned(broker)
        given.append(worker_id)
        broker.event(worker_id, finished(name))
        broker.claim(Claim(worker_id=worker_id, credits=1))
    assert given == ["w1", "w2", "w3", "w1", "w2", "w3"]


def test_a_conversation_stays_at_its_worker_until_that_one_is_much_busier(sticky: Broker) -> None:
    for worker_id in ("w1", "w2"):
        join(sticky, worker_id, credits=4)
    for number in range(4):
        ask(sticky, str(number), "one talk")
    assert [worker_id for worker_id, _ in assigned(sticky)] == ["w1", "w1", "w2", "w2"]
    assert (sticky.affinity().hits, sticky.affinity().misses) == (2, 1)


def test_without_a_margin_a_conversation_goes_anywhere(broker: Broker) -> None:
    for worker_id in ("w1", "w2"):
        join(broker, worker_id, credits=4)
    for number in range(4):
        ask(broker, str(number), "one talk")
    assert [worker_id for worker_id, _ in assigned(broker)] == ["w1", "w2", "w1", "w2"]
    assert broker.affinity().hits == 0


def test_a_job_never_waits_for_a_worker_that_has_its_beginning(sticky: Broker) -> None:
    join(sticky, "w1", credits=1)
    join(sticky, "w2", credits=1)
    ask(sticky, "a", "one talk")
    ask(sticky, "b", "one talk")
    assert assigned(sticky) == [("w1", "a"), ("w2", "b")]


def test_a_lost_workers_conversation_goes_on_elsewhere(sticky: Broker) -> None:
    for worker_id in ("w1", "w2"):
        join(sticky, worker_id, credits=4)
    ask(sticky, "a", "one talk")
    assert assigned(sticky) == [("w1", "a")]
    [lost] = sticky.worker_lost("w1")
    ask(sticky, lost.job_id, "one talk", epoch=1)
    assert assigned(sticky) == [("w2", "a")]


def two_full_workers(sticky: Broker) -> None:
    """w1 has one talk, w2 the other, and neither has a seat."""
    for worker_id, talk in (("w1", "one"), ("w2", "other")):
        join(sticky, worker_id, credits=1)
        ask(sticky, worker_id, talk)
    assert assigned(sticky) == [("w1", "w1"), ("w2", "w2")]


def free(broker: Broker, worker_id: str, job_id: str) -> list[tuple[str, str]]:
    broker.event(worker_id, finished(job_id))
    broker.claim(Claim(worker_id=worker_id, credits=1))
    return assigned(broker)


def test_while_all_are_busy_a_free_worker_takes_the_first_job_of_its_own_conversations(sticky: Broker) -> None:
    two_full_workers(sticky)
    for job_id, talk in (("a", "one"), ("b", "other"), ("c", "other")):
        ask(sticky, job_id, talk)
    assert free(sticky, "w2", "w2") == [("w2", "b")]
    assert free(sticky, "w1", "w1") == [("w1", "a")]


def test_a_job_is_passed_over_for_a_bounded_time_only(sticky: Broker, clock: Clock) -> None:
    two_full_workers(sticky)
    for job_id, talk in (("a", "one"), ("b", "other"), ("c", "other"), ("d", "other")):
        ask(sticky, job_id, talk)
    clock.advance(60.0)
    assert free(sticky, "w2", "w2") == [("w2", "b")], "to wait is not to be passed over"
    clock.advance(PASSED_OVER_S / 2)
    assert free(sticky, "w2", "b") == [("w2", "c")]
    clock.advance(PASSED_OVER_S / 2)
    assert free(sticky, "w2", "c") == [("w2", "a")]


def test_no_job_is_passed_over_by_one_that_matters_less(sticky: Broker) -> None:
    two_full_workers(sticky)
    ask(sticky, "a", "one", priority=-1)
    ask(sticky, "b", "other")
    assert free(sticky, "w2", "w2") == [("w2", "a")]


def test_a_job_far_behind_in_the_line_passes_nobody(sticky: Broker) -> None:
    two_full_workers(sticky)
    for number in range(LOOKAHEAD):
        ask(sticky, str(number), "one")
    ask(sticky, "late", "other")
    assert free(sticky, "w2", "w2") == [("w2", "0")]


def test_what_generates_nothing_leaves_no_beginning_behind(sticky: Broker) -> None:
    for worker_id in ("w1", "w2"):
        join(sticky, worker_id, credits=4)
    for name in "ab":
        sticky.submit(msgspec.structs.replace(chat_job(name, text=LONG), n=0))
    assert assigned(sticky) == [("w1", "a"), ("w2", "b")]
