"""The arithmetic of a minute's worth."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.limits.bucket import Drawn, TokenBucket
from server.limits.rates import format_duration


def test_a_full_bucket_gives_a_minutes_worth_at_once_and_then_by_the_rate() -> None:
    bucket = TokenBucket(60, 0.0)
    assert bucket.remaining(0.0) == 60
    bucket.take(60, 0.0)
    assert (bucket.remaining(0.0), bucket.wait_s(1, 0.0)) == (0, 1.0)
    assert bucket.remaining(10.0) == 10
    assert bucket.full_in_s(10.0) == 50.0
    assert bucket.remaining(1e9) == 60


def test_a_debt_is_paid_before_anything_is_to_be_had() -> None:
    bucket = TokenBucket(600, 0.0)
    bucket.take(1200, 0.0)
    assert bucket.wait_s(10, 0.0) == pytest.approx(61.0)
    assert bucket.remaining(0.0) == bucket.remaining(59.0) == 0
    assert bucket.remaining(61.0) == 10


def test_what_is_given_back_does_not_overflow() -> None:
    bucket = TokenBucket(100, 0.0)
    bucket.take(-50, 0.0)
    assert bucket.remaining(0.0) == 100


def test_another_rate_keeps_what_was_left_as_far_as_it_fits() -> None:
    bucket = TokenBucket(100, 0.0)
    bucket.take(40, 0.0)
    bucket.resize(1000, 0.0)
    assert bucket.remaining(0.0) == 60
    bucket.resize(10, 0.0)
    assert bucket.remaining(0.0) == 10


def test_a_clock_that_steps_back_gives_nothing() -> None:
    bucket = TokenBucket(60, 100.0)
    bucket.take(60, 100.0)
    assert bucket.remaining(40.0) == bucket.remaining(100.0) == 0


@settings(deadline=None)
@given(st.integers(1, 10_000), st.lists(st.tuples(st.floats(0, 30), st.integers(1, 100)), min_size=1, max_size=50))
def test_no_interval_grants_more_than_the_rate_and_one_burst(per_minute: int, asks: list[tuple[float, int]]) -> None:
    bucket, now_s, granted = TokenBucket(per_minute, 0.0), 0.0, 0
    for pause_s, amount in asks:
        now_s += pause_s
        if not bucket.wait_s(amount, now_s):
            bucket.take(amount, now_s)
            granted += amount
    assert granted <= per_minute * (1 + now_s / 60) + 1e-6


def test_a_bucket_that_goes_by_a_shared_level_forgets_nothing_that_was_taken_meanwhile() -> None:
    bucket = TokenBucket(60, 0.0)
    bucket.take(10, 0.0)
    bucket.take(-4, 0.0)
    assert bucket.tell(2.0) == Drawn(amount=6, capacity=60, level=56.0)
    bucket.take(5, 2.0)
    bucket.adopt(20.0, 3.0)
    assert bucket.remaining(3.0) == 15
    assert bucket.tell(3.0) == Drawn(amount=5, capacity=60, level=15.0)
    assert bucket.tell(3.0).amount == 0
    bucket.adopt(100.0, 3.0)
    assert bucket.remaining(3.0) == 60
    bucket.adopt(-30.0, 3.0)
    assert bucket.wait_s(1, 3.0) == 31.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.12, "120ms"),
        (1, "1s"),
        (8.643, "8.64s"),
        (59.9999, "60s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (3661, "1h1m1s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
