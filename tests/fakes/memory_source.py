"""The worker's end of a queue that is a list: what a test puts in, what the worker sent."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from schemas.control import Cancel, Drain, Heartbeat, Hello
from schemas.events import Event
from schemas.jobs import Job

PATIENCE_S = 5.0


class MemorySource:
    """A JobSource without a gateway. `log` holds all that was sent, in order: Hello, int (claimed credits), events,
    Heartbeat, and the reason of the goodbye."""

    def __init__(self) -> None:
        self.log: list[Hello | int | Event | Heartbeat | str] = []
        self._inbox: asyncio.Queue[Job | Cancel | Drain | None] = asyncio.Queue()
        self._changed = asyncio.Event()

    def deliver(self, message: Job | Cancel | Drain) -> None:
        self._inbox.put_nowait(message)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to be sent that makes the condition true."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def sent(self, kind: type) -> list:
        return [entry for entry in self.log if isinstance(entry, kind)]

    def events(self, job_id: str) -> list[Event]:
        return [entry for entry in self.log if isinstance(entry, Event) and entry.job_id == job_id]

    async def start(self, hello: Hello) -> None:
        self._note(hello)

    async def claim(self, credits: int) -> None:
        self._note(credits)

    async def messages(self) -> AsyncIterator[Job | Cancel | Drain]:
        while (message := await self._inbox.get()) is not None:
            yield message

    async def publish(self, events: Sequence[Event]) -> None:
        for event in events:
            self._note(event)

    async def heartbeat(self, heartbeat: Heartbeat) -> None:
        self._note(heartbeat)

    async def close(self, reason: str = "") -> None:
        self._note(f"goodbye {reason}".strip())
        self._inbox.put_nowait(None)

    def _note(self, entry: Hello | int | Event | Heartbeat | str) -> None:
        self.log.append(entry)
        self._changed.set()
