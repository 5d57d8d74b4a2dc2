"""The decode process: `python -m workers.media.decode_child CONTROL INPUT OUTPUT` (file descriptors).

Started by `decode_process`. It maps the two shared memories, imports and warms everything it will need, locks itself in
and then answers one request after the other until the control socket closes.
"""

import hashlib
import io
import mmap
import os
import socket
import sys
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from schemas.errors import MediaError
from workers.media import confine
from workers.media.data_url import decode_base64
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
    unpack_request,
)
from workers.media.transforms import TRANSFORMS
from workers.media.types import ImageOptions, VideoOptions

# Above what is mapped when the process is warm; a request's own limit is lower.
MOST_MEMORY_BYTES = 2 << 30
_WARM_UP_FORMATS = ("GIF", "PNG", "JPEG", "WEBP", "BMP", "TIFF")


class OutputMemory:
    """The shared output as one array at a time."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self.array: np.ndarray | None = None

    def allocate(self, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        """Raises MemoryError where it does not fit."""
        count = int(np.prod(shape, dtype=np.int64))
        if count * np.dtype(dtype).itemsize > len(self._memory):
            raise MemoryError
        self.array = np.frombuffer(self._memory, dtype, count).reshape(shape)
        return self.array


def decode(request: DecodeRequest, content: memoryview, output: OutputMemory) -> Reply:
    """Run the transform. Whatever it raises is an answer: the bytes are hostile, the process stays."""
    types = {options.__name__: options for options in TRANSFORMS}
    options_type = types[request.transform]
    options: Any = msgspec.convert(request.options, options_type)
    try:
        file = decode_base64(content, request.kind) if request.is_base64 else content
        layout = TRANSFORMS[options_type](io.BytesIO(file), options, output.allocate, request.num_threads)
        assert output.array is not None, "a transform asks for its output"
        sha256 = hashlib.sha256(file).digest() if request.is_base64 else b""
        return Decoded(output.array.shape, str(output.array.dtype), layout, sha256)
    except MediaError as error:
        return _failed(error)
    except MemoryError:
        message = f"The {request.kind} needs too much memory to decode."
        return _failed(media_error(request.kind, Failure.TOO_LARGE, message))
    except Exception:  # a parser on hostile bytes raises anything, and what it says is not for clients
        return _failed(media_error(request.kind, Failure.PARSE, f"The {request.kind} cannot be decoded."))


def warm_up() -> None:
    """Every reader once: what is imported late would find no files later."""
    hashlib.sha256(b"").digest()
    for image_format in _WARM_UP_FORMATS:
        file = io.BytesIO()
        Image.new("RGB", (32, 32)).save(file, image_format)
        TRANSFORMS[ImageOptions](file_at_start(file), ImageOptions(16), np.empty, 1)
        if image_format == "GIF":
            TRANSFORMS[VideoOptions](file_at_start(file), VideoOptions(16, 1), np.empty, 1)


def file_at_start(file: io.BytesIO) -> io.BytesIO:
    file.seek(0)
    return file


def main(control_fd: int, input_fd: int, output_fd: int) -> None:
    confine.die_with_parent()
    confine.step_back()
    protections = ["network namespace"] if confine.isolate_network() else []
    control = socket.socket(fileno=control_fd)
    content = memoryview(mmap.mmap(input_fd, 0, access=mmap.ACCESS_READ))
    output = OutputMemory(mmap.mmap(output_fd, 0))
    warm_up()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    warm_bytes = confine.address_space_bytes()
    confine.limit_for_good(warm_bytes + MOST_MEMORY_BYTES)
    if confine.deny_system_calls():
        protections.append("system call filter")
    control.sendall(pack(Ready(protections)))
    while header := _receive(control, HEADER.size):
        request = unpack_request(_receive(control, payload_size(header)))
        # Each request's file is copied once into the reader, so that readers get an ordinary file.
        confine.limit_for_one_item(warm_bytes + request.memory_bytes, request.cpu_s)
        output.array = None
        control.sendall(pack(decode(request, content[: request.size_bytes], output)))


def _receive(control: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes; nothing if the other side has closed."""
    data = b""
    while len(data) < size:
        more = control.recv(size - len(data))
        if not more:
            return b""
        data += more
    return data


def _failed(error: MediaError) -> Failed:
    return Failed(error.code.value, error.message)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
