"""The worker's end of the queue: what worker code may ask of a transport, whichever carries the bytes."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from schemas.control import Cancel, Drain, Heartbeat, Hello
from schemas.events import Event
from schemas.jobs import Job


class JobSource(Protocol):
    """One worker's end of the queue."""

    async def start(self, hello: Hello) -> None:
        """Connect and announce the worker; it is announced again by itself when the gateway comes back."""
        ...

    async def claim(self, credits: int) -> None:
        """Say that this many more jobs can be taken."""
        ...

    def messages(self) -> AsyncIterator[Job | Cancel | Drain]:
        """Jobs that were claimed, and orders; ends when the source is closed."""
        ...

    async def publish(self, events: Sequence[Event]) -> None:
        """Send events, in order."""
        ...

    async def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Renew the leases of the jobs that it names."""
        ...

    async def close(self, reason: str = "") -> None:
        """Say goodbye and close."""
        ...
