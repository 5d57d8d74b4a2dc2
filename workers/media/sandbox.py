"""A pool of decode processes. What a hostile file does to one of them costs its request an error and nothing else."""

import asyncio
import itertools
import logging
import signal
import time
from dataclasses import asdict, dataclass

import numpy as np

from schemas.errors import MediaError, Unavailable
from workers.media.decode_process import DecodeProcess, ProcessLost
from workers.media.failures import Failure, media_error
from workers.media.protocol import DecodeRequest
from workers.media.types import Layout, MediaKind, MediaOptions


@dataclass(frozen=True)
class DecodeLimits:
    """Of one item. wall_s: for one that hangs; much longer than `cpu_s`, as others come first where cores are busy."""

    memory_bytes: int
    cpu_s: int
    wall_s: float


LIMITS = {
    MediaKind.IMAGE: DecodeLimits(memory_bytes=1 << 30, cpu_s=5, wall_s=30.0),
    MediaKind.VIDEO: DecodeLimits(memory_bytes=2 << 30, cpu_s=20, wall_s=60.0),
}
_RESPAWN_DELAYS_S = (0.1, 0.5, 2.0, 5.0)

_log = logging.getLogger(__name__)


class Sandbox:
    """`start()` and `close()` on the event loop that `decode()` is called on.

    `items_per_process`: after so many a process is replaced by a fresh one.
    """

    def __init__(
        self,
        num_processes: int = 2,
        items_per_process: int = 500,
        limits: dict[MediaKind, DecodeLimits] | None = None,
    ) -> None:
        self._num_processes = num_processes
        self._items_per_process = items_per_process
        self._limits = limits or LIMITS
        # None, once closed: it is passed on from one waiting call to the next.
        self._idle: asyncio.Queue[DecodeProcess | None] = asyncio.Queue()
        self._alive: set[DecodeProcess] = set()
        self._replacing: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self.num_replaced = 0
        # Of these: crashed, hung or killed, not just replaced in time.
        self.num_lost = 0
        # Seconds that processes have spent on items, by kind; the wait for a process is not in it.
        self.busy_s = dict.fromkeys(MediaKind, 0.0)

    async def start(self) -> None:
        """Raises where a process does not come up: then this machine cannot decode media at all."""
        started = await asyncio.gather(
            *(DecodeProcess.spawn() for _ in range(self._num_processes)), return_exceptions=True
        )
        for process in started:
            if isinstance(process, DecodeProcess):
                self._admit(process)
        failures = [each for each in started if isinstance(each, BaseException)]
        if failures:
            await self.close()
            raise failures[0]
        protections = next(iter(self._alive)).protections if self._alive else []
        if not protections:
            _log.warning("decode processes run without a network namespace or system call filter: neither is permitted")

    async def close(self) -> None:
        self._is_closed = True
        self._idle.put_nowait(None)
        for task in self._replacing:
            task.cancel()
        await asyncio.gather(*self._replacing, return_exceptions=True)
        await asyncio.gather(*(process.kill() for process in self._alive))
        self._alive.clear()

    @property
    def pids(self) -> list[int]:
        """Of the processes that are up."""
        return [process.pid for process in self._alive if process.is_alive]

    async def decode(self, content: bytes, options: MediaOptions, kind: MediaKind) -> tuple[np.ndarray, Layout]:
        """The transform's array and layout. Waits for a free process, first come, first served.

        Raises MediaError without `param`, Unavailable once closed.
        """
        array, layout, _ = await self._decode(content, options, kind, is_base64=False)
        return array, layout

    async def decode_base64(
        self, text: bytes | memoryview, options: MediaOptions, kind: MediaKind
    ) -> tuple[np.ndarray, Layout, bytes]:
        """As `decode`, for the base64 of a file, of which the sha256 is returned too."""
        return await self._decode(text, options, kind, is_base64=True)

    async def _decode(
        self, content: bytes | memoryview, options: MediaOptions, kind: MediaKind, *, is_base64: bool
    ) -> tuple[np.ndarray, Layout, bytes]:
        process = await self._take()
        limits = self._limits[kind]
        request = DecodeRequest(
            kind,
            type(options).__name__,
            asdict(options),
            len(content),
            limits.memory_bytes,
            limits.cpu_s,
            is_base64,
            # Two threads of a decoder need half as much processor time again: only where nobody else needs it.
            num_threads=1 if self._idle.empty() else 2,
        )
        is_reusable = False
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(limits.wall_s):
                result = await process.decode(content, request)
            is_reusable = True
            return result
        except MediaError:
            is_reusable = True
            raise
        except TimeoutError:
            raise _too_slow(kind) from None
        except ProcessLost as lost:
            if lost.exit_status == -signal.SIGXCPU:
                raise _too_slow(kind) from lost
            raise media_error(kind, Failure.PARSE, f"The {kind} cannot be decoded.") from lost
        finally:
            self.busy_s[kind] += time.monotonic() - began_s
            self.num_lost += not is_reusable
            if is_reusable and process.num_items < self._items_per_process:
                self._idle.put_nowait(process)
            else:
                self._replace(process)

    async def _take(self) -> DecodeProcess:
        """A free process; one that died while idle is replaced, not used."""
        while True:
            process = await self._idle.get()
            if process is None or self._is_closed:
                self._idle.put_nowait(None)
                raise Unavailable("Media cannot be decoded now: the worker is stopping.")
            if process.is_alive:
                return process
            self.num_lost += 1
            self._replace(process)

    def _admit(self, process: DecodeProcess) -> None:
        self._alive.add(process)
        self._idle.put_nowait(process)

    def _replace(self, process: DecodeProcess) -> None:
        if self._is_closed:
            return  # close() ends it
        task = asyncio.get_running_loop().create_task(self._kill_and_respawn(process))
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)

    async def _kill_and_respawn(self, process: DecodeProcess) -> None:
        await process.kill()
        self._alive.discard(process)
        self.num_replaced += 1
        for attempt in itertools.count():
            try:
                self._admit(await DecodeProcess.spawn())
                return
            except (ProcessLost, OSError) as error:
                _log.error("a decode process did not start: %s", error)
                await asyncio.sleep(_RESPAWN_DELAYS_S[min(attempt, len(_RESPAWN_DELAYS_S) - 1)])


def _too_slow(kind: MediaKind) -> MediaError:
    return media_error(kind, Failure.TOO_LARGE, f"The {kind} takes too long to decode.")
