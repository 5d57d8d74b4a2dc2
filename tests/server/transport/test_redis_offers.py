"""Whom a waiting job is offered first, and until when: plain data, no Redis."""

import pytest

from schemas.jobs import ChatJob
from server.transport.affinity import AffinityCounts
from server.transport.leases import Leases
from server.transport.redis_lines import WaitingJob, waiting_job
from server.transport.redis_offers import OFFER_S, Offers
from tests.fakes.clock import Clock
from tests.fakes.messages import SEATS, chat_job, heartbeat, hello

TALK = "a conversation " * 50


class Rig:
    """Two workers, and a talk that w1 has."""

    def __init__(self, margin: float = 0.25) -> None:
        self.clock = Clock()
        self.leases = Leases(self.clock)
        self.offers = Offers(margin, self.leases)
        for name in ("w1", "w2"):
            self.leases.hello(hello(name))
        self.others: list[WaitingJob] = []
        self.offers.saw_one_taken(self.offered(chat_job("a", text=TALK)).digests, "w1")

    def offered(self, job: ChatJob) -> WaitingJob:
        waiting = waiting_job(job, self.clock(), is_resumed=False)
        self.offers.offer(job, waiting, self.others)
        return waiting

    def next_turn(self, **fields: int) -> WaitingJob:
        return self.offered(chat_job("b", text=TALK, **fields))


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_the_next_turn_is_offered_to_the_worker_that_has_the_talk(rig: Rig) -> None:
    waiting = rig.next_turn()
    assert waiting.offered_to == "w1" and waiting.line != waiting.common_line
    assert rig.offered(chat_job("c", text="another " + TALK)).offered_to is None


def test_who_takes_it_has_it_from_then_on(rig: Rig) -> None:
    rig.offers.saw_one_taken(rig.next_turn().digests, "w2")
    assert rig.next_turn().offered_to == "w2"
    assert rig.offers.counts == AffinityCounts(hits=0, misses=1)


def test_without_a_margin_or_a_choice_nothing_is_offered_and_nothing_remembered(rig: Rig) -> None:
    assert Rig(margin=0.0).next_turn().digests == ()
    rig.leases.worker_lost("w2")
    assert rig.next_turn().digests == ()


def test_a_job_of_another_class_is_remembered_but_not_offered(rig: Rig) -> None:
    waiting = rig.next_turn(priority=1)
    assert waiting.digests and waiting.offered_to is None


def test_a_worker_that_leaves_or_is_much_busier_is_offered_nothing(rig: Rig) -> None:
    rig.leases.heartbeat(heartbeat("w1", *"12"))
    assert rig.next_turn().offered_to == "w1"
    rig.leases.heartbeat(heartbeat("w1", *"123"))
    assert rig.next_turn().offered_to is None
    rig.leases.heartbeat(heartbeat("w1", state="draining"))
    assert rig.next_turn().offered_to is None


def test_what_was_offered_and_not_yet_taken_counts_as_load(rig: Rig) -> None:
    for _ in range(3):
        rig.others.append(rig.next_turn())
    assert [waiting.offered_to for waiting in rig.others] == ["w1", "w1", "w1"]
    assert rig.next_turn().offered_to is None


def test_a_full_worker_is_offered_nothing_even_where_all_are(rig: Rig) -> None:
    for name in ("w1", "w2"):
        rig.leases.heartbeat(heartbeat(name, *map(str, range(SEATS))))
    assert rig.next_turn().offered_to is None


def test_an_offer_ends_after_a_moment_or_with_its_worker(rig: Rig) -> None:
    waiting = rig.next_turn()
    assert rig.offers.overdue([waiting], rig.clock.now + OFFER_S) == [], "not yet in Redis"
    waiting.pointer = b"1-0"
    assert rig.offers.overdue([waiting], rig.clock.now + OFFER_S / 2) == []
    assert rig.offers.overdue([waiting], rig.clock.now + OFFER_S) == [waiting]
    rig.leases.worker_lost("w1")
    assert rig.offers.overdue([waiting], rig.clock.now) == [waiting]
    common = waiting_job(chat_job("c"), rig.clock(), is_resumed=False)
    assert rig.offers.overdue([common], rig.clock.now + 60.0) == []
