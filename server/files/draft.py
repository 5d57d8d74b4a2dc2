"""A file while it is being written: in pieces, in threads, and never more than a piece of it in memory."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import BinaryIO

WRITE_BYTES = 1024 * 1024


class Draft:
    """A file being written. `charge` is told of its bytes before they are written and may refuse them."""

    def __init__(self, file_id: str, path: Path, file: BinaryIO, charge: Callable[[int], None]) -> None:
        self.file_id = file_id
        self.size_bytes = 0
        self.is_kept = False
        self.path = path
        self._file = file
        self._charge = charge
        self._buffer = bytearray()

    async def write(self, data: bytes) -> None:
        """Append. Raises what `charge` raises, OSError."""
        self._charge(len(data))
        self.size_bytes += len(data)
        self._buffer += data
        if len(self._buffer) >= WRITE_BYTES:
            await self._flush()

    async def finish(self) -> None:
        """Put all bytes on the disk. Raises OSError."""
        await self._flush()
        await asyncio.to_thread(_sync, self._file, self.path.parent)

    async def _flush(self) -> None:
        data, self._buffer = self._buffer, bytearray()
        await asyncio.to_thread(self._file.write, data)


def _sync(file: BinaryIO, folder: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def keep_all(drafts: Collection[Draft], commit: Awaitable[object]) -> None:
    """Await the commit of the drafts' records, without which they are removed. Raises what `commit` raises."""
    # A commit goes on although its caller is cancelled. A file that is left for nothing does no harm, and is removed at
    # the next start; a record of a file that is gone would.
    for draft in drafts:
        draft.is_kept = True
    try:
        await commit
    except Exception:
        for draft in drafts:
            draft.is_kept = False
        raise
