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
from collections import deque
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import cast

import zmq

from schemas.control import Cancel, Claim, Drain, Goodbye, Heartbeat, Hello, Taken
from schemas.data_url import Buffer
from schemas.events import Accepted, Delta, Event, Failed, Finished
from schemas.jobs import Job
from schemas.wire import LEASE_S, MAX_MESSAGE_BYTES, ToWorker, WireError, decode_batch, encode, encode_frames
from server.transport.affinity import AffinityCounts
from server.transport.base import JobLost, WorkerInfo
from server.transport.broker import Broker
from server.transport.leases import UnknownWorker

log = logging.getLogger(__name__)

TICK_S = 0.25
STOOD_STILL_S = 1.0
"""A turn of the loop that took longer means that this process was stopped or starved."""
MESSAGES_PER_TURN = 2048
"""What is taken before the streams get their turn: few enough that none of them is behind its bound by then."""
LAST_WORDS_LOOK_S, LAST_WORDS_LOOKS = 0.005, 40
"""How often, and how many times at most, the connection of a process that has ended is looked at."""
MIN_SHARED_BYTES = 1 << 18
"""From here on a message is not copied for the socket: with megabytes of pictures in it, all streams would wait.
"""
MAX_IPC_PATH_BYTES = 107
_EVENTS = (Delta, Accepted, Finished, Failed)
"""Those that come most often in front, as it is asked of every frame."""


class ZeroMQQueue:
    """A JobQueue for workers on this machine.

    path: where the socket is to be; its folder is created if need be and must belong to this user alone.
    max_queue: jobs that may wait for one model. lease_s, affinity_margin: see Broker.
    """

    def __init__(self, path: Path, max_queue: int, lease_s: float = LEASE_S, affinity_margin: float = 0.0) -> None:
        self._path = path
        self.answers = None
        self._broker = Broker(time.monotonic, max_queue, lease_s, affinity_margin)
        self._tick_s = min(TICK_S, lease_s / 4)
        self._socket: zmq.Socket[bytes] | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._inbox: deque[Event | JobLost] = deque()
        self._has_news = asyncio.Event()
        self._is_closed = False
        self.dropped_frames = 0

    async def start(self) -> None:
        """Open the socket. Raises OSError where the folder cannot be used, ValueError where the path is too long."""
        if len(os.fsencode(self._path)) > MAX_IPC_PATH_BYTES:
            raise ValueError(f"the socket path '{self._path}' is longer than {MAX_IPC_PATH_BYTES} bytes")
        _own_folder(self._path.parent)
        socket = zmq.Context().socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        socket.bind(f"ipc://{self._path}")
        self._socket = socket
        asyncio.get_running_loop().add_reader(socket.fileno(), self._on_readable)
        self._ticking = asyncio.create_task(self._tick(), name="queue-tick")

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
        while True:
            while self._inbox:
                yield self._inbox.popleft()
            if self._is_closed:
                return
            self._has_news.clear()
            await self._has_news.wait()

    def workers(self) -> list[WorkerInfo]:
        """See JobQueue."""
        return self._broker.workers()

    def depth(self, model: str) -> int:
        """See JobQueue."""
        return self._broker.depth(model)

    def affinity(self) -> AffinityCounts:
        """See JobQueue."""
        return self._broker.affinity()

    def lost_workers(self) -> Mapping[tuple[str, str], int]:
        """See JobQueue."""
        return self._broker.lost_workers()

    def local_pids(self) -> set[int]:
        """The processes of workers that live: all of them are on this host."""
        return {worker.pid for worker in self._broker.workers()}

    def worker_died(self, pid: int) -> None:
        """The supervisor saw this process end: report its jobs without waiting for the lease, as soon as its connection
        has ended as well. Until then what it said last may still be under way."""
        self._receive_all()
        for worker in self._broker.workers():
            if worker.pid == pid:
                self._bury(worker.worker_id, LAST_WORDS_LOOKS)

    async def close(self) -> None:
        """Close the socket; `messages` ends."""
        if self._ticking is not None:
            self._ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticking
            self._ticking = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket.context.term()
            self._socket = None
            self._path.unlink(missing_ok=True)
        self._is_closed = True
        self._has_news.set()

    async def _tick(self) -> None:
        turn_began = time.monotonic()
        while True:
            await asyncio.sleep(self._tick_s)
            self._on_readable()
            now = time.monotonic()
            if now - turn_began > self._tick_s + STOOD_STILL_S:
                self._broker.renew_all()
            turn_began = now
            self._report(self._broker.expire())
            self._assign()

    def _on_readable(self) -> None:
        if self._receive():
            asyncio.get_running_loop().call_soon(self._on_readable)
        self._assign()

    def _receive(self) -> bool:
        """Take what has come. Returns whether there may be more: the socket tells of what comes, not of what is there,
        so somebody must look again."""
        num_messages = 0
        while self._socket is not None and num_messages < MESSAGES_PER_TURN:
            try:
                identity, *frames = _next_frames(self._socket)
            except zmq.Again:
                return False
            num_messages += 1 + sum(self._receive_frame(identity, frame) for frame in frames)
        return self._socket is not None

    def _receive_all(self) -> None:
        while self._receive():
            pass

    def _receive_frame(self, identity: bytes, frame: bytes) -> int:
        """Take in what a worker said at once. Returns how many messages that was."""
        try:
            worker_id = identity.decode("ascii")
            messages = decode_batch(frame)
            for message in messages:
                if isinstance(message, _EVENTS):
                    self._broker.event(worker_id, message)
                    self._bring(message)
                elif message.worker_id != worker_id:
                    raise WireError("a worker speaks in another's name")
                else:
                    self._handle(message)
        except (WireError, UnicodeDecodeError) as error:
            self.dropped_frames += 1
            log.warning("dropped a frame of %d bytes on the queue socket: %s", len(frame), error)
            return 0
        return len(messages)

    def _handle(self, message: Hello | Claim | Taken | Heartbeat | Goodbye) -> None:
        try:
            match message:
                case Hello():
                    self._broker.hello(message)
                case Claim():
                    self._broker.claim(message)
                case Taken():
                    self._broker.taken(message)
                case Heartbeat():
                    self._handle_heartbeat(message)
                case Goodbye():
                    log.info("worker %s left: %s", message.worker_id, message.reason or "drained")
                    self._report(self._broker.goodbye(message))
        except UnknownWorker:
            self._send_frame(message.worker_id, b"")

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
            if not self._reaches(worker_id, *encode_frames(job)):
                # It never got there, so its loss is none of this job's doing: another worker takes it as it is.
                self._broker.submit(job, front=True)
                self._worker_lost(worker_id)

    def _send(self, worker_id: str, message: ToWorker) -> None:
        self._send_frame(worker_id, encode(message))

    def _send_frame(self, worker_id: str, frame: bytes) -> None:
        if not self._reaches(worker_id, frame):
            # Later: this may be in the middle of what it said before.
            asyncio.get_running_loop().call_soon(self._worker_lost, worker_id)

    def _reaches(self, worker_id: str, *frames: Buffer) -> bool:
        """Send a message; False when the worker cannot be reached any more."""
        if self._socket is None:
            return True
        try:
            is_copied = sum(map(len, frames)) < MIN_SHARED_BYTES
            self._socket.send_multipart([worker_id.encode("ascii"), *frames], zmq.NOBLOCK, copy=is_copied)
        except zmq.ZMQError as error:
            # No route (its connection is gone) or no room (it stopped reading): either way it will not get this.
            log.warning("cannot reach worker %s: %s", worker_id, error)
            return False
        finally:
            # Sending uses up the sign that something has come.
            if cast("int", self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
                asyncio.get_running_loop().call_soon(self._on_readable)
        return True

    def _worker_lost(self, worker_id: str) -> None:
        # What it said before its end counts: which jobs it had begun, and how far each had come.
        self._receive_all()
        self._report(self._broker.worker_lost(worker_id))

    def _bury(self, worker_id: str, num_looks: int) -> None:
        if num_looks and self._socket is not None and self._reaches(worker_id, b""):
            asyncio.get_running_loop().call_later(LAST_WORDS_LOOK_S, self._bury, worker_id, num_looks - 1)
            return
        self._worker_lost(worker_id)
        self._assign()

    def _report(self, lost: list[JobLost]) -> None:
        for message in lost:
            log.warning("worker %s lost job %s (epoch %d)", message.worker_id, message.job_id, message.epoch)
            self._bring(message)

    def _bring(self, message: Event | JobLost) -> None:
        self._inbox.append(message)
        self._has_news.set()


def _next_frames(socket: "zmq.Socket[bytes]") -> list[bytes]:
    """Raises zmq.Again where there is none. A frame knows whether another follows; to ask the socket, as recv_multipart
    does, costs as much again."""
    frames = [socket.recv(zmq.NOBLOCK, copy=False)]
    while frames[-1].more:
        frames.append(socket.recv(copy=False))
    return [frame.bytes for frame in frames]


def _own_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"the folder '{folder}' must belong to this user and be closed to others (mode 0700)")
