"""Keeps the workers of `glimpsed serve` running: starts them, notices a death at once, kills those that fall silent,
restarts with back-off, drains.

Knows command lines and process ids, no queue and no HTTP: who is ready and whom to tell of a death come in as calls.
"""

import asyncio
import contextlib
import logging
import signal
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)

MIN_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
STABLE_S = 5.0
"""A worker that was ready for this long starts again without a grudge."""
MAX_FAILED_STARTS = 5
READY_POLL_S = 0.1
SILENCE_S = 30.0
"""A worker that is there and not heard of for so long (stopped, or its event loop hangs) is killed. It lost its jobs
long before; this only gives its place to another, so there is no haste where the machine is merely busy."""
SILENCE_LOOKS = 30
"""It must have been found silent so often: this process may itself have stood still."""
HOPELESS_EXIT_CODES = {2: 2, 3: 1}
"""A worker's exit code for bad settings and for a model that cannot be loaded -> serve's own."""


@dataclass(frozen=True, slots=True)
class WorkerCommand:
    """How to start one worker; `name` is the model's, for the log. environment: None inherits this process's."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] | None = None


class WorkersFailed(Exception):
    """A worker cannot be kept running; it has said why on stderr."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Supervisor:
    """A process for each command.

    ready_pids: the processes that have announced themselves and are heard of. on_death: told the id of each process
    that ended, at once. silence_s: how long one that was ready may not be heard of. sleep, clock: time, in seconds.
    """

    def __init__(
        self,
        commands: Sequence[WorkerCommand],
        ready_pids: Callable[[], Collection[int]],
        on_death: Callable[[int], None],
        silence_s: float = SILENCE_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._commands = commands
        self._ready_pids = ready_pids
        self._on_death = on_death
        self._look_s = silence_s / SILENCE_LOOKS
        self._sleep = sleep
        self._clock = clock
        self._processes: set[Process] = set()
        self._lives: set[asyncio.Task[tuple[int, float | None]]] = set()
        """One for each process, from before it is started until it is reaped; never cancelled."""
        self._ending: signal.Signals | None = None
        self._num_ready = 0
        self._all_ready = asyncio.Event()

    async def run(self) -> None:
        """Keep the workers running until `stop`. Raises WorkersFailed when one cannot be."""
        keepers = [asyncio.create_task(self._keep(command)) for command in self._commands]
        try:
            await asyncio.gather(*keepers)
        finally:
            self.kill()
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            if self._lives:
                await asyncio.wait(self._lives)

    @property
    def is_stopping(self) -> bool:
        """Whether no more processes are started."""
        return self._ending is not None

    def pids(self) -> list[int]:
        """The processes that run now."""
        return [process.pid for process in self._processes]

    async def ready(self) -> None:
        """Returns once every command has had a ready process."""
        await self._all_ready.wait()

    async def stop(self, timeout_s: float) -> None:
        """Have the workers drain (SIGTERM), and kill what is left after the timeout; `run` then ends."""
        self._end(signal.SIGTERM)
        if self._lives:
            _, late = await asyncio.wait(self._lives, timeout=timeout_s)
            if late:
                log.warning("%d workers did not finish within %.0f s and are killed", len(late), timeout_s)
                self.kill()
                await asyncio.wait(late)

    def kill(self) -> None:
        """End all workers now."""
        self._end(signal.SIGKILL)

    def _end(self, by: signal.Signals) -> None:
        self._ending = by
        for process in self._processes:
            _signal(process, by)

    async def _keep(self, command: WorkerCommand) -> None:
        failed_starts = short_runs = 0
        was_ever_ready = False
        while not self.is_stopping:
            life = asyncio.create_task(self._run_once(command, is_first=not was_ever_ready))
            self._lives.add(life)
            life.add_done_callback(self._lives.discard)
            # A keeper may be cancelled at any time; a process that is being started or runs must be waited for.
            code, ready_s = await asyncio.shield(life)
            if self.is_stopping:
                return
            if ready_s is None:
                failed_starts += 1
            else:
                failed_starts, was_ever_ready = 0, True
            if not was_ever_ready and code in HOPELESS_EXIT_CODES:
                raise WorkersFailed(f"the worker of '{command.name}' cannot start", HOPELESS_EXIT_CODES[code])
            if failed_starts >= MAX_FAILED_STARTS:
                log.error("a worker of '%s' failed %d times to start; giving up", command.name, failed_starts)
                raise WorkersFailed(f"the worker of '{command.name}' failed {failed_starts} times to start", 1)
            if code == 0:
                log.info("a worker of '%s' has drained; starting another", command.name)
                continue
            short_runs = 0 if ready_s is not None and ready_s >= STABLE_S else short_runs + 1
            pause_s = min(MAX_BACKOFF_S, MIN_BACKOFF_S * 2 ** max(0, short_runs - 1))
            log.error("a worker of '%s' %s; restarting in %.1f s", command.name, _how_it_ended(code), pause_s)
            await self._sleep(pause_s)

    async def _run_once(self, command: WorkerCommand, is_first: bool) -> tuple[int, float | None]:
        """Start a process and wait for its end. Returns its exit code and for how many seconds it was ready, if so."""
        # A session of its own: Ctrl-C in the terminal is for the gateway, which then drains its workers in order.
        process = await asyncio.create_subprocess_exec(
            *command.argv, stdin=DEVNULL, start_new_session=True, env=command.environment
        )
        self._processes.add(process)
        if self._ending is not None:
            _signal(process, self._ending)
        end = asyncio.create_task(process.wait())
        ready_at = await self._until_ready(process.pid, end)
        if ready_at is not None and is_first:
            self._num_ready += 1
            if self._num_ready == len(self._commands):
                self._all_ready.set()
        if ready_at is not None and await self._falls_silent(process.pid, end):
            log.error("a worker of '%s' (process %d) is not heard of any more; it is killed", command.name, process.pid)
            _signal(process, signal.SIGKILL)
        code = await end
        self._processes.discard(process)
        self._on_death(process.pid)
        return code, None if ready_at is None else self._clock() - ready_at

    async def _until_ready(self, pid: int, end: "asyncio.Task[int]") -> float | None:
        while not end.done():
            if pid in self._ready_pids():
                return self._clock()
            await asyncio.wait({end}, timeout=READY_POLL_S)
        return self._clock() if pid in self._ready_pids() else None

    async def _falls_silent(self, pid: int, end: "asyncio.Task[int]") -> bool:
        """Wait until a ready process has ended, or has not been heard of for too long: then True."""
        num_looks = 0
        while num_looks < SILENCE_LOOKS:
            await asyncio.wait({end}, timeout=self._look_s)
            if end.done():
                return False
            num_looks = 0 if pid in self._ready_pids() else num_looks + 1
        return True


def _signal(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _how_it_ended(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
