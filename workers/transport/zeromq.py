"""The worker's end of the local queue: a DEALER socket over ipc.

The library reconnects by itself. When the gateway does not know this worker (it restarted, or it took a silent worker
for lost) it answers with an empty frame, and the worker says Hello and claims again what it can still take.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

import zmq
import zmq.asyncio

from schemas.control import Cancel, Claim, Drain, Goodbye, Heartbeat, Hello, Taken
from schemas.events import Event
from schemas.jobs import Job
from schemas.wire import MAX_MESSAGE_BYTES, ToGateway, WireError, decode_frames, encode_batch

log = logging.getLogger(__name__)

RECONNECT_MS = 100
MAX_RECONNECT_MS = 2000
WORD_OUT_S = 0.01
"""What was sent lies with the library's thread for a moment; a job that may end this process is not begun before that.
"""
LINGER_MS = 500
"""How long a closing worker tries to get its last events and its Goodbye out."""


class ZeroMQSource:
    """A JobSource for a gateway on this machine; `address` is an ipc:// one."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._socket: zmq.asyncio.Socket | None = None
        self._hello: Hello | None = None
        self._unused_credits = 0
        self.dropped_frames = 0

    async def start(self, hello: Hello) -> None:
        """See JobSource."""
        socket = zmq.asyncio.Context().socket(zmq.DEALER)
        socket.setsockopt(zmq.ROUTING_ID, hello.worker_id.encode("ascii"))
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, MAX_RECONNECT_MS)
        socket.connect(self._address)
        self._socket = socket
        self._hello = hello
        await self._announce()

    async def claim(self, credits: int) -> None:
        """See JobSource."""
        self._unused_credits += credits
        await self._send([Claim(worker_id=self._worker_id, credits=credits)])

    async def messages(self) -> AsyncIterator[Job | Cancel | Drain]:
        """See JobSource."""
        while (socket := self._socket) is not None:
            try:
                # Not copied: a job with pictures is megabytes.
                frames = [frame.buffer for frame in await socket.recv_multipart(copy=False)]
            except asyncio.CancelledError:
                # Closing the socket cancels what waits for it; that is the end of the stream and not of this task.
                if self._socket is None and not _is_cancelled():
                    return
                raise
            if not any(frames):
                await self._announce()
                continue
            try:
                message = decode_frames(frames)
            except WireError as error:
                self.dropped_frames += 1
                log.warning("dropped a message of %d bytes from the gateway: %s", sum(map(len, frames)), error)
                continue
            if isinstance(message, Job):
                self._unused_credits -= 1
                taken = Taken(worker_id=self._worker_id, job_id=message.job_id, epoch=message.epoch)
                await self._send([taken])
                if message.trial_tokens:
                    await asyncio.sleep(WORD_OUT_S)
            yield message

    async def publish(self, events: Sequence[Event]) -> None:
        """See JobSource. Waits, without holding up other tasks, while the gateway does not read."""
        await self._send(events)

    async def heartbeat(self, heartbeat: Heartbeat) -> None:
        """See JobSource."""
        await self._send([heartbeat])

    async def close(self, reason: str = "") -> None:
        """See JobSource."""
        if self._socket is None:
            return
        socket, self._socket = self._socket, None
        try:
            goodbye = encode_batch([Goodbye(worker_id=self._worker_id, reason=reason)])
            await socket.send_multipart(goodbye, flags=zmq.NOBLOCK)
        except zmq.Again:
            log.warning("could not say goodbye: the gateway does not read")
        socket.close()
        await asyncio.to_thread(socket.context.term)

    @property
    def _worker_id(self) -> str:
        if self._hello is None:
            raise RuntimeError("the source was not started")
        return self._hello.worker_id

    async def _announce(self) -> None:
        if self._hello is not None:
            claim = Claim(worker_id=self._worker_id, credits=max(0, self._unused_credits))
            await self._send([self._hello, claim])

    async def _send(self, messages: Sequence[ToGateway]) -> None:
        if self._socket is not None and messages:
            await self._socket.send_multipart(encode_batch(messages))


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
