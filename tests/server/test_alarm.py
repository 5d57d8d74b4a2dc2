"""When an alarm rings: once, so long after it was last set."""

from collections.abc import Callable

import pytest

from server.alarm import Alarm
from tests.fakes.loop_clock import hold_clock, turns


@pytest.fixture
async def advance(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    return hold_clock(monkeypatch)


async def test_it_rings_once_when_the_time_is_over(advance: Callable[[float], None]) -> None:
    rung: list[bool] = []
    with Alarm(10.0, lambda: rung.append(True)) as alarm:
        alarm.set()
        advance(9.0)
        await turns()
        assert not rung
        advance(1.0)
        await turns()
        assert rung == [True]
        advance(100.0)
        await turns()
        assert rung == [True]
        alarm.set()
        advance(10.0)
        await turns()
        assert rung == [True, True]


async def test_the_last_set_counts(advance: Callable[[float], None]) -> None:
    rung: list[bool] = []
    with Alarm(10.0, lambda: rung.append(True)) as alarm:
        for _ in range(5):
            alarm.set()
            advance(6.0)
            await turns()
        assert not rung
        advance(4.0)
        await turns()
        assert rung == [True]


async def test_one_that_was_cleared_does_not_ring_until_it_is_set_again(advance: Callable[[float], None]) -> None:
    rung: list[bool] = []
    with Alarm(10.0, lambda: rung.append(True)) as alarm:
        alarm.set()
        alarm.clear()
        advance(15.0)
        await turns()
        alarm.set()
        advance(9.0)
        await turns()
        assert not rung
        advance(1.0)
        await turns()
        assert rung == [True]


async def test_none_rings_after_its_end(advance: Callable[[float], None]) -> None:
    rung: list[bool] = []
    with Alarm(10.0, lambda: rung.append(True)) as alarm:
        alarm.set()
    advance(20.0)
    await turns()
    assert not rung
