import asyncio

import pytest

from schemas.errors import Unavailable
from workers.media.single_flight import SingleFlight


class Work:
    """Runs until released; counts starts and cancellations."""

    def __init__(self) -> None:
        self.num_started = 0
        self.num_cancelled = 0
        self.go_on = asyncio.Event()

    async def __call__(self) -> int:
        self.num_started += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        return self.num_started


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_equal_calls_share_one_run_and_later_ones_start_anew() -> None:
    flights, work = SingleFlight[int](), Work()
    calls = [asyncio.create_task(flights.run("key", work)) for _ in range(10)]
    await settle()
    work.go_on.set()
    assert await asyncio.gather(*calls) == [1] * 10
    assert await flights.run("key", work) == 2


async def test_other_keys_run_on_their_own() -> None:
    flights, work = SingleFlight[int](), Work()
    work.go_on.set()
    assert sorted(await asyncio.gather(flights.run(1, work), flights.run(2, work))) == [1, 2]
    assert work.num_started == 2


async def test_an_error_reaches_every_caller() -> None:
    async def fail() -> int:
        await asyncio.sleep(0)
        raise ValueError("x")

    flights = SingleFlight[int]()
    outcomes = await asyncio.gather(*(flights.run("key", fail) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(outcome, ValueError) for outcome in outcomes)


async def test_the_work_ends_with_its_last_caller_only() -> None:
    flights, work = SingleFlight[int](), Work()
    first, second = (asyncio.create_task(flights.run("key", work)) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    assert first.cancelled() and work.num_cancelled == 0
    second.cancel()
    await settle()
    assert second.cancelled() and work.num_cancelled == 1
    work.go_on.set()
    assert await flights.run("key", work) == 2


async def test_close_tells_callers_that_it_was_not_them() -> None:
    flights, work = SingleFlight[int](), Work()
    call = asyncio.create_task(flights.run("key", work))
    await settle()
    await flights.close()
    with pytest.raises(Unavailable):
        await call
