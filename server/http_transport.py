"""A connection's writing side that neither cuts off an answer nor waits forever for a client to take it.

Closed while the client still sends, a socket is reset, and the client may lose the answer that it has not read: so the
end of the answer is said first, and what comes meanwhile is taken and thrown away. Closed with an answer in its buffer
that nobody reads, a connection would stay: so it has to get smaller at a least rate.
"""

import asyncio
from typing import Any

MIN_BYTES_PER_S = 1024


class GentleTransport(asyncio.Transport):
    """stall_s: time in which a client has to read that many seconds' least rate. linger_s: how long a client that still
    sends may go on after the answer."""

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, stall_s: float, linger_s: float
    ) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._stall_s = stall_s
        self._linger_s = linger_s
        self._is_closing = False
        self._num_written = 0
        self._stall_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self.has_unread_body = False
        """Whether the client is in the middle of sending something."""

    def close(self) -> None:
        """Close once all is written, the client has had time to read it, and not much later."""
        if self._is_closing:
            return
        self._is_closing = True
        if self.has_unread_body and self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()
            # Reading may be paused, as nobody took what came.
            self._transport.resume_reading()
            self._linger_timer = self._loop.call_later(self._linger_s, self._transport.abort)
        else:
            self._transport.close()
        self.watch_writes()

    def watch_writes(self) -> None:
        """Abort the connection unless the client reads on what is in the buffer now."""
        size_bytes = self._transport.get_write_buffer_size()
        if size_bytes and self._stall_timer is None:
            num_read = self._num_written - size_bytes
            least = num_read + min(size_bytes, int(MIN_BYTES_PER_S * self._stall_s))
            self._stall_timer = self._loop.call_later(self._stall_s, self._check_writes, least)

    def body_is_over(self) -> None:
        """The client has sent what it was sending."""
        self.has_unread_body = False
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._transport.close()

    def lost(self) -> None:
        """The connection is gone."""
        self._is_closing = True
        for timer in (self._stall_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()

    def is_closing(self) -> bool:
        return self._is_closing or self._transport.is_closing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._is_closing:
            self._num_written += len(data)
            self._transport.write(data)

    def abort(self) -> None:
        self._transport.abort()

    def pause_reading(self) -> None:
        if not self._is_closing:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._is_closing:
            self._transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def _check_writes(self, least: int) -> None:
        self._stall_timer = None
        if self._num_written - self._transport.get_write_buffer_size() < least:
            self._transport.abort()
        else:
            self.watch_writes()
