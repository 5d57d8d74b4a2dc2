"""The local queue as data: lines, credits, leases; `check` after every step."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.control import Claim, Taken
from schemas.errors import Overloaded
from server.transport.base import JobLost
from server.transport.broker import Broker
from server.transport.leases import ARRIVAL_S, UnknownWorker
from tests.fakes.clock import Clock
from tests.fakes.messages import chat_job, delta, finished, heartbeat
from tests.server.transport.brokering import LEASE_S, assigned, join


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def broker(clock: Clock) -> Broker:
    return Broker(clock, max_queue=4, lease_s=LEASE_S)


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
    st.tuples(st.just("submit"), NAMES, st.booleans(), st.integers(0, 2)),
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
                text = ("one " if args[0] < "d" else "other ") * 100
                broker.submit(chat_job(args[0], text=text, trial_tokens=args[2]), front=args[1])
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
        assert all(_num_on_trial(broker, worker) <= 1 for worker in ("w1", "w2", "w3"))
        for report in lost:
            assert report.job_id in alive
            alive.discard(report.job_id)
        assert _everywhere(broker) == alive


def _holder(broker: Broker, job_id: str) -> str | None:
    return broker._leases.holder_of(job_id)


def _num_on_trial(broker: Broker, worker_id: str) -> int:
    worker = broker._leases._workers.get(worker_id)
    return sum(held.trial_tokens > 0 for held in worker.jobs.values()) if worker is not None else 0


def _everywhere(broker: Broker) -> set[str]:
    waiting = {entry.job.job_id for line in broker._lines.values() for entry in (*line.waiting, *line.suspected)}
    return waiting | set(broker._leases.held())
