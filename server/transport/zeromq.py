"""The gateway's end of the local queue: a ROUTER socket round the broker, over ipc.

The socket's folder is open to this user only, for whoever can connect can pose as a worker. A frame is a message of
schemas.wire; what is not one is dropped and counted, and a message over the size limit costs its sender the
connection before it is read. An empty frame to a worker means "say Hello": the gateway does not know it (any more).
"""

import asyncio
import contextlib
import logging
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import zmq
import zmq.asyncio

from schemas.control import Cancel, Claim, Drain, Goodbye, Heartbeat, Hello, Taken
from schemas.events import Event
from schemas.jobs import Job
from schemas.wire import LEASE_S, MAX_MESSAGE_BYTES, ToGateway, ToWorker, WireError, decode_for_gateway, encode
from server.transport.base import JobLost, WorkerInfo
from server.transport.broker import Broker
from server.transport.leases import UnknownWorker

log = logging.getLogger(__name__)

TICK_S = 0.25
STOOD_STILL_S = 1.0
"""A turn of the loop that took longer means that this process was stopped or starved."""
MESSAGES_PER_TURN = 256
MAX_IPC_PATH_BYTES = 107


class ZeroMQQueue:
    """A JobQueue for workers on this machine.

    path: where the socket is to be; its folder is created if need be and must belong to this user alone.
    max_queue: jobs that may wait for one model. lease_s: see Broker.
    """

    def __init__(self, path: Path, max_queue: int, lease_s: float = LEASE_S) -> None:
        self._path = path
        self._broker = Broker(time.monotonic, max_queue, lease_s)
        self._tick_s = min(TICK_S, lease_s / 4)
        self._socket: zmq.asyncio.Socket | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._inbox: asyncio.Queue[Event | JobLost | None] = asyncio.Queue()
        self.dropped_frames = 0

    async def start(self) -> None:
        """Open the socket. Raises OSError where the folder cannot be used, ValueError where the path is too long."""
        if len(os.fsencode(self._path)) > MAX_IPC_PATH_BYTES:
            raise ValueError(f"the socket path '{self._path}' is longer than {MAX_IPC_PATH_BYTES} bytes")
        _own_folder(self._path.parent)
        socket = zmq.asyncio.Context().socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        socket.bind(f"ipc://{self._path}")
        self._socket = socket
        self._receiving = asyncio.create_task(self._receive_loop(socket), name="queue-receive")

    async def submit(self, job: Job, *, front: bool = False) -> None:
        """See JobQueue."""
        self._broker.submit(job, front=front)
        self._assign()

    async def cancel(self, job_id: str) -> None:
        """See JobQueue."""
        worker_id = self._broker.cancel(job_id)
        if worker_id is not None:
            self._send(worker_id, Cancel(job_id=job_id))

    async def messages(self) -> AsyncIterator[Event | JobLost]:
        """See JobQueue."""
        while (message := await self._inbox.get()) is not None:
            yield message

    def workers(self) -> list[WorkerInfo]:
        """See JobQueue."""
        return self._broker.workers()

    def depth(self, model: str) -> int:
        """See JobQueue."""
        return self._broker.depth(model)

    def local_pids(self) -> set[int]:
        """The processes of workers that live: all of them are on this host."""
        return {worker.pid for worker in self._broker.workers()}

    def worker_died(self, pid: int) -> None:
        """The supervisor saw this process end: report its jobs now, without waiting for the lease."""
        if self._socket is not None:
            # What it said before its end counts, above all which jobs it had begun.
            self._receive(self._socket)
        for worker in self._broker.workers():
            if worker.pid == pid:
                self._worker_lost(worker.worker_id)
        self._assign()

    async def close(self) -> None:
        """Close the socket; `messages` ends."""
        if self._receiving is not None:
            self._receiving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._receiving
            self._receiving = None
        if self._socket is not None:
            self._socket.close()
            self._socket.context.term()
            self._socket = None
            self._path.unlink(missing_ok=True)
        self._inbox.put_nowait(None)

    async def _receive_loop(self, socket: zmq.asyncio.Socket) -> None:
        turn_began = time.monotonic()
        while True:
            await socket.poll(timeout=int(self._tick_s * 1000))
            self._receive(socket)
            now = time.monotonic()
            if now - turn_began > self._tick_s + STOOD_STILL_S:
                self._broker.renew_all()
            turn_began = now
            self._report(self._broker.expire())
            self._assign()
            await asyncio.sleep(0)

    def _receive(self, socket: zmq.asyncio.Socket) -> None:
        for _ in range(MESSAGES_PER_TURN):
            # NOBLOCK never leaves the future pending.
            received = cast("asyncio.Future[list[bytes]]", socket.recv_multipart(flags=zmq.NOBLOCK))
            error = received.exception()
            if isinstance(error, zmq.Again):
                return
            if error is not None:
                raise error
            identity, *frames = received.result()
            for frame in frames:
                self._receive_frame(identity, frame)

    def _receive_frame(self, identity: bytes, frame: bytes) -> None:
        try:
            worker_id = identity.decode("ascii")
            message = decode_for_gateway(frame)
            if isinstance(message, Hello | Claim | Taken | Heartbeat | Goodbye) and message.worker_id != worker_id:
                raise WireError("a worker speaks in another's name")
        except (WireError, UnicodeDecodeError) as error:
            self.dropped_frames += 1
            log.warning("dropped a frame of %d bytes on the queue socket: %s", len(frame), error)
            return
        try:
            self._handle(worker_id, message)
        except UnknownWorker:
            self._send_frame(worker_id, b"")

    def _handle(self, worker_id: str, message: ToGateway) -> None:
        if isinstance(message, Hello):
            self._broker.hello(message)
        elif isinstance(message, Claim):
            self._broker.claim(message)
        elif isinstance(message, Taken):
            self._broker.taken(message)
        elif isinstance(message, Heartbeat):
            self._handle_heartbeat(message)
        elif isinstance(message, Goodbye):
            log.info("worker %s left: %s", worker_id, message.reason or "drained")
            self._worker_lost(worker_id)
        else:
            self._broker.event(worker_id, message)
            self._inbox.put_nowait(message)

    def _handle_heartbeat(self, heartbeat: Heartbeat) -> None:
        lost, strays = self._broker.heartbeat(heartbeat)
        self._report(lost)
        for job_id in strays:
            self._send(heartbeat.worker_id, Cancel(job_id=job_id))
        if heartbeat.state == "draining":
            # Sent in order behind the last job: after it the worker knows that no other job is on its way.
            self._send(heartbeat.worker_id, Drain())

    def _assign(self) -> None:
        for worker_id, job in self._broker.assign():
            if not self._reaches(worker_id, encode(job)):
                # It never got there, so its loss is none of this job's doing: another worker takes it as it is.
                self._broker.submit(job, front=True)
                self._worker_lost(worker_id)

    def _send(self, worker_id: str, message: ToWorker) -> None:
        self._send_frame(worker_id, encode(message))

    def _send_frame(self, worker_id: str, frame: bytes) -> None:
        if not self._reaches(worker_id, frame):
            self._worker_lost(worker_id)

    def _reaches(self, worker_id: str, frame: bytes) -> bool:
        """Send a frame; False when the worker cannot be reached any more."""
        if self._socket is None:
            return True
        # As above: the future is done, one way or the other, when it is returned.
        sent = self._socket.send_multipart([worker_id.encode("ascii"), frame], flags=zmq.NOBLOCK)
        error = cast("asyncio.Future[object]", sent).exception()
        if isinstance(error, zmq.ZMQError):
            # No route (its connection is gone) or no room (it stopped reading): either way it will not get this.
            log.warning("cannot reach worker %s: %s", worker_id, error)
            return False
        if error is not None:
            raise error
        return True

    def _worker_lost(self, worker_id: str) -> None:
        self._report(self._broker.worker_lost(worker_id))

    def _report(self, lost: list[JobLost]) -> None:
        for message in lost:
            log.warning("worker %s lost job %s (epoch %d)", message.worker_id, message.job_id, message.epoch)
            self._inbox.put_nowait(message)


def _own_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"the folder '{folder}' must belong to this user and be closed to others (mode 0700)")
