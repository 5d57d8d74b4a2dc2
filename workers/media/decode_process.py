"""One decode process, seen from the worker: start, one exchange at a time, kill. Leaves nothing behind."""

import asyncio
import math
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

from schemas.errors import ErrorCode, MediaError
from workers import child
from workers.media.failures import Failure, media_error
from workers.media.protocol import (
    HEADER,
    Decoded,
    DecodeRequest,
    Failed,
    Ready,
    Reply,
    pack,
    payload_size,
    unpack_reply,
)
from workers.media.types import Layout
from workers.pages import MIN_BYTES, own_pages

INPUT_BYTES = 144 << 20
"""Room for the base64 of the largest clip that is accepted."""
OUTPUT_BYTES = 1 << 30
# Shared memory is kept for the next item up to here, and given back above.
_KEPT_BYTES = 16 << 20
_START_TIMEOUT_S = 60.0
_MODULE = "workers.media.decode_child"
_ENVIRONMENT = {
    **child.ENVIRONMENT,
    # Memory of one item is kept for the next: to be given fresh pages each time costs a fifth of a picture.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
_CODES = frozenset(code.value for code in ErrorCode)
_DTYPES = ("uint8", "float32")
_T = TypeVar("_T")


class ProcessLost(Exception):
    """The process died or broke the protocol; `exit_status` is negative for a signal."""

    def __init__(self, exit_status: int | None) -> None:
        super().__init__(f"decode process ended with {exit_status}")
        self.exit_status = exit_status


class DecodeProcess:
    """Made by `spawn`. After `ProcessLost`, a timeout or a cancellation only `kill` may follow."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        control: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        input_fd: int,
        output_fd: int,
    ) -> None:
        self._process = process
        self._reader, self._writer = control
        self._input_fd = input_fd
        self._output_fd = output_fd
        self._io: asyncio.Future[Any] | None = None
        self.protections: list[str] = []
        self.num_items = 0

    @classmethod
    async def spawn(cls) -> "DecodeProcess":
        """A process that is warm and locked in. Raises ProcessLost or OSError where it does not come up."""
        ours, theirs = socket.socketpair()
        with theirs:
            control = await asyncio.open_unix_connection(sock=ours)
            input_fd = _shared_memory("media-input", INPUT_BYTES)
            output_fd = _shared_memory("media-output", OUTPUT_BYTES)
            fds = (theirs.fileno(), input_fd, output_fd)
            try:
                process = await asyncio.create_subprocess_exec(
                    *child.command(_MODULE, *map(str, fds)),
                    stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
                    pass_fds=fds, env=_ENVIRONMENT, cwd="/",
                    # A terminal's Ctrl-C is the worker's affair: it drains first. Not a session of its own, where the
                    # kernel's autogroups would give it as much of a core as all the worker's threads, for all its
                    # niceness.
                    process_group=0,
                )  # fmt: skip
            except BaseException:
                control[1].close()
                os.close(input_fd)
                os.close(output_fd)
                raise
        self = cls(process, control, input_fd, output_fd)
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                ready = await self._reply()
            if not isinstance(ready, Ready):
                raise ProcessLost(None)
        except BaseException:
            await self.kill()
            raise
        self.protections = ready.protections
        return self

    @property
    def is_alive(self) -> bool:
        """Whether it is not known to have ended."""
        return self._process.returncode is None and not self._reader.at_eof()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def decode(self, content: bytes | memoryview, request: DecodeRequest) -> tuple[np.ndarray, Layout, bytes]:
        """The transform's array and layout, and the file's sha256 where it came as base64.

        Raises MediaError (the file's fault, the process goes on) or ProcessLost.
        """
        if len(content) > INPUT_BYTES:
            message = f"The {request.kind} is larger than {INPUT_BYTES >> 20} MiB."
            raise media_error(request.kind, Failure.FILE_TOO_LARGE, message)
        self.num_items += 1
        await self._in_thread(_write, self._input_fd, content)
        try:
            self._writer.write(pack(request))
            reply = await self._reply()
        except OSError:
            raise ProcessLost(await self._process.wait()) from None
        match reply:
            case Decoded(shape, dtype, layout, sha256) if _is_sound(shape, dtype):
                return await self._in_thread(_read, self._output_fd, shape, dtype), layout, sha256
            case Failed(code, message) if code in _CODES:
                raise MediaError(ErrorCode(code), message[:500])
        raise ProcessLost(None)

    async def kill(self) -> None:
        """End it, whatever it does, and free everything. Safe to call twice."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()
        if self._io is not None:
            await asyncio.wait([self._io])  # a thread may still be using the descriptors
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
        for fd in (self._input_fd, self._output_fd):
            if fd >= 0:
                os.close(fd)
        self._input_fd = self._output_fd = -1

    async def _reply(self) -> Reply:
        try:
            header = await self._reader.readexactly(HEADER.size)
            return unpack_reply(await self._reader.readexactly(payload_size(header)))
        except asyncio.IncompleteReadError:
            raise ProcessLost(await self._process.wait()) from None
        except ValueError:
            raise ProcessLost(None) from None

    async def _in_thread(self, work: Callable[..., _T], *args: Any) -> _T:
        self._io = asyncio.get_running_loop().run_in_executor(None, work, *args)
        return await asyncio.shield(self._io)


def _shared_memory(name: str, size_bytes: int) -> int:
    """An anonymous file: sparse, nameless, gone with its last user."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    os.ftruncate(fd, size_bytes)
    return fd


def _write(fd: int, content: bytes | memoryview) -> None:
    view = memoryview(content)
    _give_back(fd, INPUT_BYTES, len(view))
    at = 0
    while at < len(view):
        at += os.pwrite(fd, view[at:], at)


def _read(fd: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    array = _lasting_array(shape, dtype)
    view = memoryview(array.data).cast("B")
    at = 0
    while at < len(view):
        at += os.preadv(fd, [view[at:]], at)
    _give_back(fd, OUTPUT_BYTES, len(view))
    return array


def _lasting_array(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array to be kept, with whatever it contains."""
    size_bytes = np.dtype(dtype).itemsize * math.prod(shape)
    if size_bytes < MIN_BYTES:
        return np.empty(shape, dtype)
    return np.frombuffer(own_pages(size_bytes), dtype).reshape(shape)


def _give_back(fd: int, size_bytes: int, used_bytes: int) -> None:
    if used_bytes > _KEPT_BYTES:
        os.ftruncate(fd, 0)
        os.ftruncate(fd, size_bytes)


def _is_sound(shape: tuple[int, ...], dtype: str) -> bool:
    if dtype not in _DTYPES or not shape or min(shape) < 1:
        return False
    return np.dtype(dtype).itemsize * math.prod(shape) <= OUTPUT_BYTES
