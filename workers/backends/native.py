"""Our engine behind an asyncio face: the step loop runs in a thread of its own, requests come and go as coroutines."""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import asdict, dataclass

from schemas.errors import EngineError
from workers.engine.engine import Engine, SequenceFailed, TokenOutput
from workers.engine.sequence import Sequence
from workers.handlers.base import FatalError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BackendStats:
    """How busy the engine is now, and what it has done. kv_usage: blocks that requests hold, 0..1. under_way: what it
    is at, each with a number that changes when it gets on."""

    running: int
    waiting: int
    kv_usage: float
    counters: dict[str, int]
    under_way: dict[str, int]


class NativeBackend:
    """Runs one Engine. `fatal` gets a FatalError when the step loop ends by an exception; else it is never done."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._streams: dict[str, asyncio.Queue[TokenOutput | SequenceFailed]] = {}
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._loop = asyncio.get_running_loop()
        self.fatal: asyncio.Future[None] = self._loop.create_future()

    def start(self) -> None:
        """Start the step loop."""
        self._thread.start()

    async def close(self) -> None:
        """Stop after the step that runs; whatever is still in flight is dropped."""
        self._inbox.put(self._stop)
        await asyncio.to_thread(self._thread.join)

    def fits(self, seq: Sequence) -> bool:
        """Whether the sequence could ever run here, alone in the whole pool."""
        return self._engine.scheduler.fits(seq)

    async def generate(self, seq: Sequence) -> AsyncGenerator[list[TokenOutput], None]:
        """Run a sequence; yields what is new, several tokens together when the reader was slower than the engine.

        Leaving the iterator early aborts the sequence before the engine's next step. Raises GlimpsedError when
        the sequence, and it alone, failed.
        """
        stream: asyncio.Queue[TokenOutput | SequenceFailed] = asyncio.Queue()
        self._streams[seq.request_id] = stream
        self._inbox.put(lambda: self._add(seq))
        is_finished = False
        try:
            while not is_finished:
                news = [await stream.get()]
                while not stream.empty():
                    news.append(stream.get_nowait())
                outputs = [item for item in news if isinstance(item, TokenOutput)]
                failures = [item for item in news if isinstance(item, SequenceFailed)]
                is_finished = bool(failures) or outputs[-1].finish_reason is not None
                if outputs:
                    yield outputs
                if failures:
                    log.warning("%s failed: %s", seq.request_id, failures[0].reason)
                    raise failures[0].error
        finally:
            del self._streams[seq.request_id]
            if not is_finished:
                self._inbox.put(lambda: self._engine.abort(seq.request_id))

    def stats(self) -> BackendStats:
        """Read from another thread than the engine's: each figure is whole, they may be of different steps."""
        scheduler, usage, done = self._engine.scheduler, self._engine.block_manager.usage, self._engine.counters
        under_way = {}
        if scheduler.has_work:
            under_way["the engine's step"] = done.steps + done.encoded_tokens + done.prefill_tokens
        if self._engine.is_busy_beside:
            under_way["what is computed beside the steps"] = done.encoded_tokens + done.prefill_tokens
        return BackendStats(scheduler.num_running, scheduler.num_waiting, usage, asdict(done), under_way)

    def _stop(self) -> None:
        self._is_closing = True

    def _run(self) -> None:
        try:
            while not self._is_closing:
                self._take_commands()
                if self._engine.scheduler.has_work and not self._is_closing:
                    outputs = self._engine.step()
                    if outputs:
                        self._loop.call_soon_threadsafe(self._deliver, outputs)
        except Exception as error:
            log.exception("the step loop ended")
            self._loop.call_soon_threadsafe(self.fatal.set_exception, FatalError(f"the engine failed: {error!r}"))

    def _add(self, seq: Sequence) -> None:
        try:
            self._engine.add(seq)
        except ValueError as error:
            shown = EngineError("The engine could not take this request.")
            failed: list[TokenOutput | SequenceFailed] = [SequenceFailed(seq.request_id, str(error), shown)]
            self._loop.call_soon_threadsafe(self._deliver, failed)

    def _take_commands(self) -> None:
        """Carry out what was asked for; sleeps while there is neither work nor a command."""
        is_idle = not self._engine.scheduler.has_work
        while True:
            try:
                command = self._inbox.get(block=is_idle)
            except queue.Empty:
                return
            command()
            is_idle = False

    def _deliver(self, outputs: list[TokenOutput | SequenceFailed]) -> None:
        for output in outputs:
            stream = self._streams.get(output.request_id)
            if stream is not None:
                stream.put_nowait(output)
