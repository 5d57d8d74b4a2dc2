"""The local queue as data: lines, credits, leases; `check` after every step."""

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.control import Claim, Taken
from schemas.errors import Overloaded
from server.transport.base import JobLost
from server.transport.broker import LOOKAHEAD, PASSED_OVER_S, Broker
from server.transport.leases import ARRIVAL_S, UnknownWorker
from tests.fakes.clock import Clock
from tests.fakes.messages import chat_job, delta, finished, heartbeat, hello

LEASE_S = 3.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def broker(clock: Clock) -> Broker:
    return Broker(clock, max_queue=4, lease_s=LEASE_S)


def join(broker: Broker, worker_id: str, credits: int, model: str = "tiny", pid: int = 1) -> None:
    broker.hello(hello(worker_id, model=model, pid=pid))
    broker.claim(Claim(worker_id=worker_id, credits=credits))


def assigned(broker: Broker) -> list[tuple[str, str]]:
    pairs = [(worker_id, job.job_id) for worker_id, job in broker.assign()]
    broker.check()
    return pairs


def test_jobs_wait_until_a_worker_of_their_model_has_credit(broker: Broker) -> None:
    broker.submit(chat_job("a"))
    broker.submit(chat_job("b", model="other"))
    assert assigned(broker) == []
    join(broker, "w", credits=5)
    assert assigned(broker) == [("w", "a")]
    assert (broker.depth("tiny"), broker.depth("other"), broker.depth("unknown")) == (0, 1, 0)


def test_no_worker_gets_more_than_it_claimed(broker: Broker) -> None:
    join(broker, "w", credits=2)
    for name in "abc":
        broker.submit(chat_job(name))
    assert assigned(broker) == [("w", "a"), ("w", "b")]
    broker.event("w", finished("a"))
    assert assigned(broker) == []
    broker.claim(Claim(worker_id="w", credits=1))
    assert assigned(broker) == [("w", "c")]


def test_the_least_loaded_worker_gets_the_next_job(broker: Broker) -> None:
    join(broker, "w1", credits=8)
    join(broker, "w2", credits=2)
    for name in "abcd":
        broker.submit(chat_job(name))
    assert assigned(broker) == [("w1", "a"), ("w2", "b"), ("w1", "c"), ("w2", "d")]


def test_resumed_jobs_come_first_then_the_smaller_priority_then_the_older(broker: Broker) -> None:
    broker.submit(chat_job("late", priority=5))
    broker.submit(chat_job("one"))
    broker.submit(chat_job("two"))
    broker.submit(chat_job("urgent", priority=-1))
    broker.submit(chat_job("resumed", priority=9, epoch=1), front=True)
    join(broker, "w", credits=9)
    assert [job_id for _, job_id in assigned(broker)] == ["resumed", "urgent", "one", "two", "late"]


def test_a_full_line_refuses_new_jobs_and_takes_resumed_ones(broker: Broker) -> None:
    for name in "abcd":
        broker.submit(chat_job(name))
    with pytest.raises(Overloaded) as refused:
        broker.submit(chat_job("e"))
    assert refused.value.retry_after_s >= 1.0
    broker.submit(chat_job("f", epoch=1), front=True)
    broker.submit(chat_job("g", model="other"))
    assert broker.depth("tiny") == 5


def test_retry_after_follows_the_measured_rate(clock: Clock) -> None:
    broker = Broker(clock, max_queue=20)
    join(broker, "w", credits=4)
    for number in range(24):
        broker.submit(chat_job(str(number)))
        list(broker.assign())
    for number in range(3):
        clock.advance(2.0)
        broker.event("w", finished(str(number)))
        broker.claim(Claim(worker_id="w", credits=1))
        list(broker.assign())
        broker.submit(chat_job(f"more{number}"))
    with pytest.raises(Overloaded) as refused:
        broker.submit(chat_job("too many"))
    assert refused.value.retry_after_s == pytest.approx(20 / (7 / 6.0))


def test_a_cancelled_job_is_forgotten_where_it_waits_and_where_it_runs(broker: Broker) -> None:
    broker.submit(chat_job("waits"))
    assert broker.cancel("waits") is None
    join(broker, "w", credits=1)
    assert assigned(broker) == []
    broker.submit(chat_job("runs"))
    assert assigned(broker) == [("w", "runs")]
    assert broker.cancel("runs") == "w"
    assert broker.cancel("runs") is None
    assert broker.worker_lost("w") == []


def test_a_silent_worker_loses_its_jobs_after_a_lease(broker: Broker, clock: Clock) -> None:
    join(broker, "w", credits=2)
    broker.submit(chat_job("a", epoch=3))
    assigned(broker)
    clock.advance(LEASE_S)
    assert broker.expire() == []
    clock.advance(0.01)
    assert broker.expire() == [JobLost("a", 3, "w", was_taken=False)]
    assert broker.workers() == []
    with pytest.raises(UnknownWorker):
        broker.heartbeat(heartbeat("w", "a"))
    broker.check()


def test_events_and_heartbeats_renew_the_lease(broker: Broker, clock: Clock) -> None:
    join(broker, "w", credits=2)
    broker.submit(chat_job("a"))
    assigned(broker)
    clock.advance(2.0)
    broker.event("w", delta("a", 0))
    clock.advance(2.0)
    assert broker.heartbeat(heartbeat("w", "a")) == ([], [])
    clock.advance(2.0)
    assert broker.expire() == []


def test_a_gateway_that_stood_still_blames_no_worker(broker: Broker, clock: Clock) -> None:
    join(broker, "w", credits=1)
    clock.advance(60.0)
    broker.renew_all()
    assert broker.expire() == []


def test_a_job_that_its_worker_does_not_name_is_lost_after_a_lease(broker: Broker, clock: Clock) -> None:
    join(broker, "w", credits=2)
    broker.submit(chat_job("a"))
    assigned(broker)
    broker.taken(Taken(worker_id="w", job_id="a", epoch=0))
    assert broker.heartbeat(heartbeat("w")) == ([], [])
    clock.advance(2.0)
    assert broker.heartbeat(heartbeat("w")) == ([], [])
    clock.advance(1.5)
    assert broker.heartbeat(heartbeat("w")) == ([JobLost("a", 0, "w", was_taken=True)], [])
    broker.check()


def test_a_large_job_that_is_long_on_its_way_is_not_lost(broker: Broker, clock: Clock) -> None:
    join(broker, "w", credits=2)
    broker.submit(chat_job("a"))
    assigned(broker)
    for _ in range(10):
        clock.advance(LEASE_S)
        assert broker.heartbeat(heartbeat("w")) == ([], [])
    broker.taken(Taken(worker_id="w", job_id="a", epoch=0))
    clock.advance(1.0)
    assert broker.heartbeat(heartbeat("w")) == ([], []), "sent before it was taken"
    clock.advance(LEASE_S)
    assert broker.heartbeat(heartbeat("w", "a")) == ([], [])
    broker.check()


def test_a_job_that_never_arrives_is_lost_in_the_end(broker: Broker, clock: Clock) -> None:
    join(broker, "w", credits=2)
    broker.submit(chat_job("a"))
    assigned(broker)
    clock.advance(ARRIVAL_S)
    assert broker.heartbeat(heartbeat("w")) == ([], [])
    clock.advance(0.5)
    assert broker.heartbeat(heartbeat("w")) == ([JobLost("a", 0, "w", was_taken=False)], [])
    broker.check()


def test_a_job_that_a_worker_names_and_should_not_hold_is_a_stray(broker: Broker) -> None:
    join(broker, "w", credits=2)
    assert broker.heartbeat(heartbeat("w", "ghost")) == ([], ["ghost"])


def test_an_old_epochs_last_event_does_not_end_the_new_lease(broker: Broker) -> None:
    join(broker, "w", credits=2)
    broker.submit(chat_job("a", epoch=1))
    assigned(broker)
    broker.event("w", finished("a", epoch=0))
    assert broker.worker_lost("w") == [JobLost("a", 1, "w", was_taken=False)]


def test_a_last_event_from_another_worker_does_not_end_the_lease(broker: Broker) -> None:
    join(broker, "w", credits=1)
    broker.submit(chat_job("a"))
    assigned(broker)
    join(broker, "zombie", credits=0)
    broker.event("zombie", finished("a"))
    broker.event("stranger", finished("a"))
    assert broker.worker_lost("w") == [JobLost("a", 0, "w", was_taken=False)]


@pytest.mark.parametrize("sign", ["word", "heartbeat", "event"])
def test_a_job_counts_as_begun_from_the_first_sign_of_it(broker: Broker, sign: str) -> None:
    join(broker, "w", credits=2)
    for name in "ab":
        broker.submit(chat_job(name, epoch=1))
    assigned(broker)
    match sign:
        case "word":
            broker.taken(Taken(worker_id="w", job_id="a", epoch=1))
        case "heartbeat":
            broker.heartbeat(heartbeat("w", "a"))
        case "event":
            broker.event("w", delta("a", 0, epoch=1))
    assert broker.worker_lost("w") == [JobLost("a", 1, "w"), JobLost("b", 1, "w", was_taken=False)]


def test_signs_of_an_old_epoch_and_of_other_jobs_do_not_make_a_job_begun(broker: Broker) -> None:
    join(broker, "w", credits=1)
    broker.submit(chat_job("a", epoch=1))
    assigned(broker)
    broker.taken(Taken(worker_id="w", job_id="a", epoch=0))
    broker.taken(Taken(worker_id="w", job_id="unknown", epoch=0))
    broker.event("w", delta("a", 0, epoch=0))
    assert broker.worker_lost("w") == [JobLost("a", 1, "w", was_taken=False)]
    with pytest.raises(UnknownWorker):
        broker.taken(Taken(worker_id="w", job_id="a", epoch=1))


def test_a_draining_worker_gets_nothing_more(broker: Broker) -> None:
    join(broker, "w", credits=2)
    broker.heartbeat(heartbeat("w", state="draining"))
    broker.claim(Claim(worker_id="w", credits=1))
    broker.submit(chat_job("a"))
    assert assigned(broker) == []
    assert [worker.state for worker in broker.workers()] == ["draining"]


def test_hello_again_starts_credits_anew_and_keeps_jobs(broker: Broker) -> None:
    join(broker, "w", credits=3)
    broker.submit(chat_job("a"))
    assigned(broker)
    join(broker, "w", credits=1)
    broker.submit(chat_job("b"))
    broker.submit(chat_job("c"))
    assert assigned(broker) == [("w", "b")]
    assert {lost.job_id for lost in broker.worker_lost("w")} == {"a", "b"}


def test_a_resubmitted_job_replaces_its_earlier_epoch(broker: Broker) -> None:
    join(broker, "w", credits=1)
    broker.submit(chat_job("a"))
    assigned(broker)
    broker.submit(chat_job("a", epoch=1), front=True)
    broker.submit(chat_job("a", epoch=2), front=True)
    broker.check()
    assert broker.depth("tiny") == 1
    assert broker.heartbeat(heartbeat("w", "a")) == ([], ["a"])


NAMES = st.sampled_from("abcdef")
WORKERS = st.sampled_from(["w1", "w2", "w3"])
STEPS = st.one_of(
    st.tuples(st.just("submit"), NAMES, st.booleans()),
    st.tuples(st.just("cancel"), NAMES),
    st.tuples(st.just("join"), WORKERS, st.integers(0, 3)),
    st.tuples(st.just("claim"), WORKERS, st.integers(-1, 3)),
    st.tuples(st.just("beat"), WORKERS, st.lists(NAMES, unique=True)),
    st.tuples(st.just("finish"), WORKERS, NAMES),
    st.tuples(st.just("lose"), WORKERS),
    st.tuples(st.just("wait"), st.floats(0, 4)),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=40))
def test_no_order_of_happenings_loses_or_doubles_a_job(steps: list[tuple]) -> None:
    """Every submitted job is waiting, held, finished, cancelled or reported lost: exactly one of them."""
    clock = Clock()
    broker = Broker(clock, max_queue=3, lease_s=LEASE_S, affinity_margin=0.25)
    alive: set[str] = set()
    for name, *args in steps:
        lost: list[JobLost] = []
        try:
            if name == "submit":
                broker.submit(chat_job(args[0], text=("one " if args[0] < "d" else "other ") * 100), front=args[1])
                alive.add(args[0])
            elif name == "cancel":
                broker.cancel(args[0])
                alive.discard(args[0])
            elif name == "join":
                join(broker, args[0], args[1])
            elif name == "claim":
                broker.claim(Claim(worker_id=args[0], credits=args[1]))
            elif name == "beat":
                lost, _ = broker.heartbeat(heartbeat(args[0], *args[1]))
            elif name == "finish":
                held = _holder(broker, args[1])
                broker.event(args[0], finished(args[1]))
                if held == args[0]:
                    alive.discard(args[1])
            elif name == "lose":
                lost = broker.worker_lost(args[0])
            else:
                clock.advance(args[0])
                lost = broker.expire()
        except Overloaded:
            alive.discard(args[0])
        except UnknownWorker:
            pass
        list(broker.assign())
        broker.check()
        for report in lost:
            assert report.job_id in alive
            alive.discard(report.job_id)
        assert _everywhere(broker) == alive


def _holder(broker: Broker, job_id: str) -> str | None:
    return broker._leases.holder_of(job_id)


def _everywhere(broker: Broker) -> set[str]:
    waiting = {entry.job.job_id for line in broker._lines.values() for entry in line.waiting}
    return waiting | set(broker._leases.held())


LONG = "word " * 100


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
