"""The engine's thread behind its asyncio face: streams, early leaving, a step loop that breaks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest

from schemas.errors import EngineError
from workers.backends.native import NativeBackend
from workers.engine.engine import Counters, SequenceFailed, TokenOutput
from workers.engine.sequence import Sequence
from workers.handlers.base import FatalError


class CountingEngine:
    """Stands in for an Engine: every sequence gets 0, 1, 2, ... up to its limit; `on_step` may break or slow a step."""

    def __init__(self, on_step: Callable[[], None]) -> None:
        self.scheduler = self
        self.block_manager = self
        self.counters = Counters()
        self.aborted: list[str] = []
        self.failing = ""
        self._sequences: dict[str, Sequence] = {}
        self._on_step = on_step

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    @property
    def num_running(self) -> int:
        return len(self._sequences)

    num_waiting = 0
    is_busy_beside = False

    @property
    def usage(self) -> float:
        return len(self._sequences) / 10

    def fits(self, seq: Sequence) -> bool:
        return True

    def add(self, seq: Sequence) -> None:
        if seq.request_id in self._sequences:
            raise ValueError(f"request id {seq.request_id} is already in use")
        self._sequences[seq.request_id] = seq

    def abort(self, request_id: str) -> None:
        self._sequences.pop(request_id, None)
        self.aborted.append(request_id)

    def step(self) -> list[TokenOutput | SequenceFailed]:
        self._on_step()
        outputs: list[TokenOutput | SequenceFailed] = []
        if self._sequences.pop(self.failing, None):
            outputs.append(SequenceFailed(self.failing, "a broken medium", EngineError("no")))
        for seq in list(self._sequences.values()):
            seq.token_ids.append(seq.num_output_tokens)
            reason = "length" if seq.is_at_limit else None
            outputs.append(TokenOutput(seq.request_id, seq.token_ids[-1], None, reason))
            if reason:
                del self._sequences[seq.request_id]
        return outputs


def sequence(name: str, tokens: int) -> Sequence:
    return Sequence(request_id=name, token_ids=[9], num_prompt_tokens=1, max_total_tokens=1 + tokens)


async def collect(backend: NativeBackend, seq: Sequence) -> list[int]:
    return [output.token_id async for outputs in backend.generate(seq) for output in outputs]


@pytest.fixture
async def engine() -> CountingEngine:
    return CountingEngine(on_step=lambda: None)


@pytest.fixture
async def backend(engine: CountingEngine) -> AsyncIterator[NativeBackend]:
    backend = NativeBackend(engine)
    backend.start()
    yield backend
    await backend.close()


async def test_each_reader_gets_its_own_tokens_in_order(backend: NativeBackend):
    results = await asyncio.gather(*(collect(backend, sequence(str(n), n)) for n in range(1, 20)))
    assert results == [list(range(n)) for n in range(1, 20)]
    assert backend.stats().running == 0


async def test_a_slow_reader_gets_several_tokens_at_once(backend: NativeBackend):
    async with aclosing(backend.generate(sequence("slow", 50))) as stream:
        first = await anext(stream)
        while backend.stats().running:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        batches = [first, *[outputs async for outputs in stream]]
    assert len(batches) <= 2
    assert [output.token_id for outputs in batches for output in outputs] == list(range(50))


async def test_leaving_early_aborts_the_sequence(backend: NativeBackend, engine: CountingEngine):
    async with aclosing(backend.generate(sequence("left", 10**6))) as stream:
        await anext(stream)
    while not engine.aborted:
        await asyncio.sleep(0)
    assert engine.aborted == ["left"]
    assert backend.stats().running == 0


async def test_a_cancelled_reader_aborts_the_sequence(backend: NativeBackend, engine: CountingEngine):
    task = asyncio.create_task(collect(backend, sequence("cancelled", 10**6)))
    while not backend.stats().running:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while not engine.aborted:
        await asyncio.sleep(0)
    assert engine.aborted == ["cancelled"]


async def test_a_sequence_that_fails_alone_raises_for_its_reader_only(backend: NativeBackend, engine: CountingEngine):
    engine.failing = "unlucky"
    lucky = asyncio.create_task(collect(backend, sequence("lucky", 5)))
    with pytest.raises(EngineError):
        await collect(backend, sequence("unlucky", 5))
    assert await lucky == list(range(5))
    assert backend.stats().running == 0


async def test_a_sequence_that_the_engine_refuses_fails_alone(backend: NativeBackend):
    first = asyncio.create_task(collect(backend, sequence("held", 10**6)))
    while not backend.stats().running:
        await asyncio.sleep(0)
    with pytest.raises(EngineError):
        await collect(backend, sequence("held", 3))
    assert await collect(backend, sequence("other", 3)) == [0, 1, 2]
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_a_step_that_raises_is_fatal_for_the_backend():
    def explode() -> None:
        raise RuntimeError("CUDA error: an illegal memory access")

    backend = NativeBackend(CountingEngine(on_step=explode))
    backend.start()
    reader = asyncio.create_task(collect(backend, sequence("any", 3)))
    with pytest.raises(FatalError, match="illegal memory access"):
        await backend.fatal
    reader.cancel()
    await backend.close()
