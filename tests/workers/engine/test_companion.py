"""How what is computed beside the steps stands back behind them, and how it still gets its share of the time."""

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import pytest
import torch

from workers.engine import companion as companion_module
from workers.engine.companion import CompanionThread, CompanionTurns, Embeddings, open_companion
from workers.engine.plan import Chunk
from workers.engine.sequence import MediaInput, Sequence


@dataclass
class Encoder:
    """Encodes: runs `work`; or in `num_parts` parts, of which each takes a second of `now_s`."""

    work: Callable[[], None] = lambda: None
    num_parts: int = 0
    now_s: float = 0.0
    num_done: int = 0

    def encode(self, items: Seq[MediaInput]) -> Embeddings:
        self.work()
        return {b"key": torch.zeros(1)}

    def prefill(self, chunk: Chunk) -> None:
        self.work()

    def encode_in_parts(self, items: Seq[MediaInput]) -> Generator[None, None, Embeddings]:
        for _ in range(self.num_parts):
            yield
            self.now_s += 1
            self.num_done += 1
        return self.encode(items)


@pytest.fixture
def thread() -> Iterator[CompanionThread]:
    opened = CompanionThread()
    yield opened
    opened.close()


def test_a_tower_has_a_thread_where_a_core_is_left_and_turns_where_none_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert isinstance(open_companion(torch.device("cpu")), CompanionTurns)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert isinstance(open_companion(torch.device("cpu")), CompanionThread)
    assert open_companion(torch.device("cuda")) is None


def test_the_thread_has_only_what_nobody_else_wants_of_a_core(thread: CompanionThread) -> None:
    before = os.sched_getscheduler(0)
    found: list[int] = []
    thread.encode(Encoder(lambda: found.append(os.sched_getscheduler(0))), ()).result()
    assert found == [os.SCHED_IDLE] and os.sched_getscheduler(0) == before


def test_steps_wait_for_a_thread_that_had_nothing_until_its_work_is_done(thread: CompanionThread) -> None:
    may_end = threading.Event()
    encoding = thread.encode(Encoder(lambda: _wait(may_end)), ())
    threading.Timer(0.01, may_end.set).start()
    thread.take_turn(60.0)
    assert encoding.result(timeout=0).keys() == {b"key"}


def test_steps_wait_for_a_thread_no_longer_than_its_share(thread: CompanionThread) -> None:
    may_end = threading.Event()
    encoding = thread.encode(Encoder(lambda: _wait(may_end)), ())
    for _ in range(3):
        thread.take_turn(0.001)
    assert not encoding.done()
    may_end.set()
    thread.finish()
    assert encoding.done()


def test_steps_do_not_wait_for_a_thread_that_is_ahead_of_its_share(
    thread: CompanionThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_ahead, may_end = threading.Event(), threading.Event()

    def work() -> None:
        end_s = time.thread_time() + 0.02
        while time.thread_time() < end_s:
            pass
        is_ahead.set()
        _wait(may_end)

    encoding = thread.encode(Encoder(work), ())
    _wait(is_ahead)
    with monkeypatch.context() as patched:
        patched.delattr(companion_module, "wait")
        thread.take_turn(0.01)
        thread.take_turn(0.005)
    assert not encoding.done()
    may_end.set()
    thread.finish()


def test_a_tower_without_work_takes_no_turn(thread: CompanionThread) -> None:
    turns = CompanionTurns()
    for tower in (thread, turns):
        tower.take_turn(3600.0)
        tower.finish()
        encoding = tower.encode(Encoder(), ())
        tower.finish()
        tower.take_turn(3600.0)
        assert encoding.done()


def test_turns_take_as_many_parts_as_are_due() -> None:
    encoder = Encoder(num_parts=10)
    turns = CompanionTurns(lambda: encoder.now_s)
    encoding = turns.encode(encoder, ())
    turns.take_turn(3.0)
    assert encoder.num_done == 3
    turns.take_turn(3.0)
    assert encoder.num_done == 6 and not encoding.done()
    turns.take_turn(60.0)
    assert encoder.num_done == 10 and encoding.done()


def test_a_part_longer_than_a_share_is_made_up_for() -> None:
    encoder = Encoder(num_parts=10)
    turns = CompanionTurns(lambda: encoder.now_s)
    turns.encode(encoder, ())
    done = []
    for _ in range(9):
        turns.take_turn(0.25)
        done.append(encoder.num_done)
    assert done == [1, 1, 1, 1, 2, 2, 2, 2, 3]


def test_turns_run_to_the_end_where_nobody_waits() -> None:
    encoder = Encoder(num_parts=10)
    turns = CompanionTurns(lambda: encoder.now_s)
    encoding = turns.encode(encoder, ())
    turns.finish()
    assert encoding.result(timeout=0).keys() == {b"key"}


@pytest.mark.parametrize("kind", [CompanionThread, CompanionTurns])
def test_a_chunk_is_computed_as_media_are(kind: type[CompanionThread] | type[CompanionTurns]) -> None:
    chunks: list[Chunk] = []

    class Prefiller(Encoder):
        def prefill(self, chunk: Chunk) -> None:
            chunks.append(chunk)

    companion = kind()
    chunk = Chunk(Sequence("one", [1, 2, 3], 3, 4), 0, 2, samples=False)
    prefilling = companion.prefill(Prefiller(), chunk)
    companion.take_turn(60.0)
    companion.finish()
    assert prefilling.result(timeout=0) is None and chunks == [chunk]


@pytest.mark.parametrize("kind", [CompanionThread, CompanionTurns])
def test_what_the_work_raises_is_its_result(kind: type[CompanionThread] | type[CompanionTurns]) -> None:
    def fail() -> None:
        raise ValueError("no picture")

    tower = kind()
    encoding = tower.encode(Encoder(fail), ())
    tower.take_turn(60.0)
    tower.finish()
    with pytest.raises(ValueError, match="no picture"):
        encoding.result(timeout=0)


def _wait(event: threading.Event) -> None:
    assert event.wait(10)
